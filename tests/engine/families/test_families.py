"""Every family computes what transformers computes, from both forms of its files, in plain torch.

Logits of a prompt at once and in chunks over the paged cache; greedy replies through the scheduler, whose prompts come
in chunks, then again with their prefix cached; on one rank and on two.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.worker import start_worker
from engine.distributed.communicator import SingleRank
from engine.layers.paged_attention import PagedAttention, Segment
from engine.layers.paged_kv import PagedKV
from engine.model.transformer import Transformer
from engine.offline import OfflineEngine
from engine.scheduler.request import SamplingParams
from tests.engine.distributed.rank_worker import all_logits
from tests.engine.distributed.world import World
from tests.engine.families.cases import CASES
from tests.engine.families.models import REPLY, Golden, make_golden

FORMS = [
    (name, form) for name, case in CASES.items() for form in ("huggingface", "gguf") if case.arch or form != "gguf"
]
COMMON = [(name, form) for name, form in FORMS if not CASES[name].rare]
RARE = [pytest.param(name, form, marks=pytest.mark.long) for name, form in FORMS if CASES[name].rare]
SHORT = SamplingParams(temperature=0.0, max_tokens=10)
GREEDY = SamplingParams(temperature=0.0, max_tokens=REPLY)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Golden]:
    folder = tmp_path_factory.mktemp("families")
    return cache(lambda name: make_golden(name, folder))


@torch.inference_mode()
def paged_logits(model: Transformer, ids: list[int], chunk: int) -> np.ndarray:
    """All logits, `chunk` tokens at a time over pages of 4, in an order of their own."""
    spec, cpu = model.spec, torch.device("cpu")
    pages = torch.randperm(20, generator=torch.Generator().manual_seed(1)).tolist()
    kv = PagedKV(spec.n_layers, 20, 4, model.kv_heads, spec.head_dim, torch.float32, cpu)
    parts = []
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        attend = PagedAttention(kv, [Segment(pages, start, len(part))], cpu)
        hidden = model(torch.tensor(part), torch.arange(start, start + len(part)), attend)
        parts.append(model.logits(hidden).numpy())
    return np.concatenate(parts)


@pytest.mark.parametrize(("name", "form"), [*COMMON, *RARE])
def test_one_rank_equals_transformers(golden: Callable[[str], Golden], name: str, form: str) -> None:
    expected = golden(name)
    checkpoint = open_checkpoint(expected.path(form))
    config = resolve(
        checkpoint.spec, device="cpu", max_context=expected.case.max_context, max_prefill_tokens=16, quantize="none"
    )
    worker = start_worker(config, checkpoint, SingleRank())
    model = worker.model
    assert np.abs(all_logits(model, expected.prompts[0]).numpy() - expected.logits).max() < 1e-3
    assert np.abs(paged_logits(model, expected.prompts[0], 7) - expected.logits).max() < 1e-3
    engine = OfflineEngine(config, SingleRank(), worker)
    assert engine.generate(expected.prompts, GREEDY, [0, 0]) == expected.replies
    longer = [*expected.prompts[0], *expected.replies[0][:30]]  # a dialog goes on: its prefix is cached
    assert engine.generate([longer], SHORT, [0]) == [expected.replies[0][30:40]]
    assert engine._scheduler.totals.cached_tokens >= 64
    engine.close()


@pytest.mark.parametrize(
    ("forms", "length"),
    [
        ([(name, form) for name, form in COMMON if form == "huggingface"], 16),
        pytest.param(FORMS, REPLY, marks=pytest.mark.long),
    ],
    ids=["common", "all"],
)
def test_two_ranks_equal_transformers(
    golden: Callable[[str], Golden], tmp_path: Path, forms: list[tuple[str, str]], length: int
) -> None:
    """All families in one pair of processes."""
    models = [
        {"model": str(golden(name).path(form)), "max_context": CASES[name].max_context, "prompts": golden(name).prompts}
        for name, form in forms
    ]
    out = tmp_path / "out"
    first = models[0]["model"]
    with World(2, "families", model=first, models=models, length=length, out=str(out)) as world:
        assert world.codes(240) == [0, 0], world.said
    for rank in range(2):
        replies = json.loads(out.with_suffix(f".{rank}.json").read_text())
        with np.load(out.with_suffix(f".{rank}.npz")) as logits:
            for number, (name, form) in enumerate(forms):
                difference = np.abs(logits[f"arr_{number}"] - golden(name).logits).max()
                assert difference < 1e-3, (name, form, rank)
                assert replies[number] == [reply[:length] for reply in golden(name).replies], (name, form, rank)
