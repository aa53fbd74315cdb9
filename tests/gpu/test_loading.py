"""Weights are read while a GPU's steps are recorded: a mistake in them ends the start, and the next start works.

`make test-gpu`, or `pytest -m gpu tests/gpu/test_loading.py`.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.errors import ConfigError
from engine.load_progress import LoadProgress
from tests.engine.tiny import write_checkpoint

PARAMS = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
pytestmark = pytest.mark.gpu


def configure(folder: Path, **changes: object) -> EngineConfig:
    config = resolve(open_checkpoint(folder).spec, device="cuda", dtype="float32", max_context=512, max_num_seqs=8)
    return dataclasses.replace(config, exit_on_failure=False, num_kv_pages=300, num_host_slots=0, seed=1, **changes)


def reply(config: EngineConfig, folder: Path) -> list[int]:
    progress = LoadProgress()
    engine = EngineCore.start(config, open_checkpoint(folder), progress)
    try:
        assert str(progress.state) == "recording steps, 100 %"
        return engine.submit(list(range(3, 90)), PARAMS).result(60)
    finally:
        engine.close()


def test_weights_that_are_not_finite_end_the_start(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, dim=256, heads=4, kv_heads=2, layers=3, multiple_of=64, spread=0.06)
    recorded, at_once = configure(folder), configure(folder, cuda_graphs=False)
    expected = reply(at_once, folder)
    assert reply(recorded, folder) == expected
    file = folder / "consolidated.00.pth"
    weights = torch.load(file)
    weights["layers.2.feed_forward.w2.weight"][0, 0] = float("inf")
    torch.save(weights, file)
    for config in (recorded, at_once):
        with pytest.raises(ConfigError, match=r"NaN or infinity in layers\.2"):
            EngineCore.start(config, open_checkpoint(folder))
    weights["layers.2.feed_forward.w2.weight"][0, 0] = 0.0
    torch.save(weights, file)
    assert len(reply(recorded, folder)) == PARAMS.max_tokens
