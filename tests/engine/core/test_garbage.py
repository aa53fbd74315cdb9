"""Full garbage collections: none while requests run, one when the engine has been idle for a while."""

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.core.garbage import ENOUGH_STEPS, MOST_STEPS, MOST_YOUNG, REST, FullCollections, freeze_gc
from tests.engine.tiny import write_checkpoint


@pytest.fixture
def full() -> Iterator[list[int]]:
    """The full collections of this process, which are deferred meanwhile."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(1)

    thresholds = gc.get_threshold()
    freeze_gc(defer_full=True)
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def busy(collections: FullCollections, steps: int) -> None:
    for _ in range(steps):
        collections.step(idle=False)


def test_python_runs_none_by_itself(full: list[int]) -> None:
    kept = [[[number]] for number in range(300_000)]
    assert not full
    del kept


def test_python_runs_one_at_last_where_no_steps_run(full: list[int]) -> None:
    """Connections leave garbage too, and an engine may be asked for its health alone."""
    kept = [[[number]] for number in range(300_000)]
    for _ in range(MOST_YOUNG + 1):
        gc.collect(1)
    assert not full
    kept += [[[number]] for number in range(1_000)]
    assert len(full) == 1


@pytest.mark.parametrize("ends", ["by itself", "cancelled"])
def test_a_request_that_has_ended_is_freed_without_a_collection(tmp_path: Path, ends: str) -> None:
    """It has its tokens, an index of them, and perhaps a grammar: thousands of them would wait for one."""
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, dim=32, heads=4, kv_heads=2, layers=1))
    engine = EngineCore.start(resolve(checkpoint.spec, device="cpu", max_context=128, max_num_seqs=4), checkpoint)
    gc.disable()
    try:
        stream = engine.submit([5] * 40, SamplingParams(max_tokens=8 if ends == "by itself" else 80, ignore_eos=True))
        if ends == "cancelled":
            stream.cancel()
        stream.result(30)
        is_freed = threading.Event()
        weakref.finalize(stream, is_freed.set)
        del stream
        assert is_freed.wait(5)
    finally:
        gc.enable()
        engine.close()


def test_an_idle_engine_collects_once_after_a_rest(full: list[int]) -> None:
    clock = Clock()
    collections = FullCollections(clock)
    busy(collections, ENOUGH_STEPS)
    assert not full
    assert collections.seconds_until_due() == REST
    clock.now += REST / 2
    collections.step(idle=True)
    assert not full
    clock.now += REST / 2
    assert collections.seconds_until_due() == 0.0
    collections.step(idle=True)
    assert len(full) == 1
    clock.now += 100 * REST
    collections.step(idle=True)
    assert len(full) == 1
    assert collections.seconds_until_due() is None  # the thread sleeps until a request comes


def test_a_few_steps_leave_too_little_to_collect(full: list[int]) -> None:
    clock = Clock()
    collections = FullCollections(clock)
    busy(collections, ENOUGH_STEPS - 1)
    clock.now += 100 * REST
    collections.step(idle=True)
    assert not full
    assert collections.seconds_until_due() is None


def test_an_engine_that_is_never_idle_collects_at_last(full: list[int]) -> None:
    collections = FullCollections(Clock())
    busy(collections, MOST_STEPS - 1)
    assert not full
    busy(collections, 1)
    assert len(full) == 1


def test_where_python_collects_itself_nothing_is_added() -> None:
    before = gc.get_stats()[2]["collections"]
    busy(FullCollections(Clock()), MOST_STEPS)
    assert gc.get_stats()[2]["collections"] <= before + 1  # Python's own
