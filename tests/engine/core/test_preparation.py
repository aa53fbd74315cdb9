"""What is done between two steps: a runner prepares at once while the engine is idle, rarely while requests run, and an
idle engine wakes up for the slots that it can still use.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from engine.config import EngineConfig
from engine.core import step_loop
from engine.core.step_loop import MAX_PREPARE_SHARE, StepLoop
from engine.distributed.communicator import Communicator
from engine.runner.base import AnyRunner
from engine.scheduler.scheduler import Scheduler


@dataclass
class Clock:
    """Seconds that only pass when something takes time."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class PreparingRunner:
    """Has `pieces` to prepare, each of which takes `seconds`."""

    clock: Clock
    pieces: int
    seconds: float = 0.04

    def prepare(self) -> bool:
        if not self.pieces:
            return False
        self.pieces -= 1
        self.clock.now += self.seconds
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(step_loop, "time", clock)
    return clock


def loop(runner: PreparingRunner) -> StepLoop:
    config = EngineConfig(torch.device("cpu"), torch.float32, max_num_seqs=1, max_context=16, max_prefill_tokens=16)
    scheduler = SimpleNamespace(drafter=SimpleNamespace(prepare=lambda: False))
    return StepLoop(config, cast(Scheduler, scheduler), cast(AnyRunner, runner), cast(Communicator, cast(Any, None)))


def test_an_idle_engine_prepares_everything_at_once(clock: Clock) -> None:
    runner = PreparingRunner(clock, pieces=5)
    steps = loop(runner)
    assert [steps.prepare(idle=True) for _ in range(7)] == [True] * 5 + [False] * 2


@pytest.mark.parametrize("seconds", [0.04, 8.0])
def test_while_requests_run_it_takes_a_small_share_of_the_time(clock: Clock, seconds: float) -> None:
    runner = PreparingRunner(clock, pieces=1000, seconds=seconds)
    steps = loop(runner)
    started, prepared = clock.now, 0
    while prepared < 10:
        prepared += steps.prepare(idle=False)
        clock.now += 0.01  # a step
    assert seconds * 9 / (clock.now - seconds - started) <= MAX_PREPARE_SHARE * 1.01


def test_after_the_last_piece_the_runner_is_left_alone(clock: Clock) -> None:
    runner = PreparingRunner(clock, pieces=1)
    steps = loop(runner)
    assert steps.prepare(idle=True)
    assert not steps.prepare(idle=True)
    runner.pieces = 1
    assert not steps.prepare(idle=True)


def test_an_idle_engine_wakes_up_for_more_slots(clock: Clock) -> None:
    scheduler = Scheduler(max_num_seqs=1, num_pages=4, max_prefill_tokens=16, max_context=16, max_host_slots=8)
    config = EngineConfig(torch.device("cpu"), torch.float32, max_num_seqs=1, max_context=16, max_prefill_tokens=16)
    steps = StepLoop(config, scheduler, cast(AnyRunner, None), cast(Communicator, cast(Any, None)))
    assert steps.seconds_until_heartbeat() is None
    table = scheduler.cache.allocate("a", range(16))
    assert table is not None
    scheduler.cache.free(table, range(16))
    assert scheduler.schedule() is None
    assert steps.seconds_until_heartbeat() == 0.0
    scheduler.cache.host.grow(1)
    planned = scheduler.schedule()
    assert planned is not None
    assert len(planned.plan.copies.saves) == 1
    assert steps.seconds_until_heartbeat() is None
