"""Staging memory is used again, and freed at the end; ordinary memory stands for pinned memory."""

import pytest

from engine.runner.cuda.host_tier import staging_memory
from engine.runner.cuda.host_tier.staging_memory import SMALLEST, StagingMemory
from tests.engine.runner.cuda.test_pinned_slots import OrdinaryMemory


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_memory, "PinnedMemory", OrdinaryMemory)
    monkeypatch.setattr(OrdinaryMemory, "left", 1000)
    monkeypatch.setattr(OrdinaryMemory, "held", 0)


def test_a_piece_is_used_again_for_what_fits_and_is_as_large() -> None:
    staging = StagingMemory()
    small, large = staging.take(100), staging.take(SMALLEST + 1)
    assert (small.bytes.numel(), large.bytes.numel()) == (SMALLEST, 2 * SMALLEST)
    staging.give_back(small)
    staging.give_back(large)
    assert staging.take(2 * SMALLEST) is large
    assert staging.take(1) is small
    assert staging.take(1) is not small


def test_all_is_freed_also_what_comes_back_after_the_end() -> None:
    staging = StagingMemory()
    early, late = staging.take(1), staging.take(1)
    staging.give_back(early)
    assert OrdinaryMemory.held == 2
    staging.close()
    assert OrdinaryMemory.held == 1
    staging.give_back(late)
    assert OrdinaryMemory.held == 0
