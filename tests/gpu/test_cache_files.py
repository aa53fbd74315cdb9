"""The KV cache over a restart on a GPU: pages go to files beside the steps and come back, and replies are the same.

`make test-gpu`, or `pytest -m gpu tests/gpu/test_cache_files.py`.
"""

import dataclasses
import random
import time
from pathlib import Path

import pytest

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.kv_store.settings import StoreSettings
from tests.engine.tiny import VOCAB, write_checkpoint

DIALOGS, PROMPT = 24, 300
PARAMS = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model")
    return open_checkpoint(
        write_checkpoint(folder, dim=256, heads=4, kv_heads=2, layers=3, multiple_of=64, spread=0.06)
    )


def configure(checkpoint: Checkpoint, folder: Path | None, **changes: object) -> EngineConfig:
    config = resolve(checkpoint.spec, device="cuda", dtype="float32", max_context=512, max_num_seqs=8, seed=1)
    store = None if folder is None else StoreSettings(folder, bytes(range(32)))
    return dataclasses.replace(config, exit_on_failure=False, kv_store=store, **changes)


def dialog(number: int) -> list[int]:
    chosen = random.Random(number)
    return [chosen.randrange(3, VOCAB) for _ in range(PROMPT)]


def ask_all(engine: EngineCore) -> tuple[list[list[int]], int]:
    """All replies, asked at once; how many prompt tokens were cached."""
    streams = [engine.submit(dialog(number), PARAMS, tenant=str(number)) for number in range(DIALOGS)]
    replies = [stream.result(120) for stream in streams]
    return replies, sum(stream.usage.cached_tokens for stream in streams)


def wait_until_restored(engine: EngineCore) -> None:
    """It goes on while the engine serves: on a busy machine the host tier is pinned late."""
    deadline = time.monotonic() + 30
    while engine._cache_files is not None and engine._cache_files._restore:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_pinned(engine: EngineCore, slots: int) -> None:
    """The engine looks for pinned slots twice a second while it has requests; without slots it drops what it evicts."""
    deadline = time.monotonic() + 60
    while engine.stats().kv_host_tokens_total < slots * engine.config.page_size:
        assert time.monotonic() < deadline
        engine.submit([3, 4, 5], PARAMS, tenant="another").result(120)


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("slots", [0, 1000])
def test_replies_after_a_restart(checkpoint: Checkpoint, tmp_path: Path, slots: int, kv_dtype: str) -> None:
    """Without a host tier a third of the dialogs fits into the pages; with one, all of them come back."""
    pages = 240 if slots else 2000
    engine = EngineCore.start(configure(checkpoint, None, num_kv_pages=2000, kv_dtype=kv_dtype), checkpoint)
    expected, _ = ask_all(engine)
    engine.close()
    config = configure(checkpoint, tmp_path, num_kv_pages=pages, num_host_slots=slots, kv_dtype=kv_dtype)
    for start in range(3):
        engine = EngineCore.start(config, checkpoint)
        wait_until_restored(engine)
        wait_until_pinned(engine, slots)
        for _ in range(2):
            replies, cached = ask_all(engine)
            assert replies == expected
        if start:
            assert cached >= DIALOGS * PROMPT * 0.9
            assert engine.stats().kv_tokens_reloaded >= DIALOGS * PROMPT * 0.9
        engine.close()
        assert engine.failure is None
