"""Rank 0's step: schedule, broadcast the plan, launch it, read the sampled ids of a step.

With `overlap`, step n + 1 is launched before the ids of step n are read, so that the device never waits for Python. The
end of a reply is then seen one step late, and the id that the extra step samples is dropped.

It knows the order of these calls, and runs in the engine thread. It does not know who submitted a request.
"""

import time
from dataclasses import dataclass
from typing import Final

from engine.config import EngineConfig
from engine.core.stats import STEP_BOUNDS, Histogram
from engine.distributed.communicator import Communicator
from engine.distributed.wire import NOP, STEP, STOP, RankCommand
from engine.runner.base import AnyRunner
from engine.scheduler.output import ScheduledStep, TokenOutput
from engine.scheduler.scheduler import Scheduler

GROWTH_INTERVAL: Final = 0.5  # seconds between readings while the host tier fills faster than its memory is pinned
MEMORY_INTERVAL: Final = 5.0  # seconds between memory readings of a single rank
MAX_PREPARE_SHARE: Final = 0.1  # of the time while requests run


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one call of `StepLoop.step` did. With `overlap` the outputs are those of the step before `scheduled`."""

    scheduled: ScheduledStep | None
    outputs: list[TokenOutput]
    idle: bool  # no step was launched or read
    started_at: float = 0.0  # time.monotonic()


class StepLoop:
    """One step after another, with heartbeats in between."""

    def __init__(
        self, config: EngineConfig, scheduler: Scheduler, runner: AnyRunner, communicator: Communicator
    ) -> None:
        self._config, self._scheduler, self._runner, self._communicator = config, scheduler, runner, communicator
        self._in_flight: tuple[ScheduledStep, object] | None = None  # launched, ids not read; with `overlap` only
        self._next_heartbeat = self._next_preparation = 0.0
        self.is_prepared = False  # the runner has nothing more to prepare
        self.step_time = Histogram(STEP_BOUNDS)
        self.rank_memory: tuple[int, ...] = (0,)

    def step(self) -> StepResult:
        """Launch a step, if there is one, and read the ids of the step that is due. Raises what a rank raises."""
        self._heartbeat()
        started, started_at = time.perf_counter(), time.monotonic()
        scheduled = self._scheduler.schedule()
        launched: tuple[ScheduledStep, object] | None = None
        if scheduled is not None:
            self._communicator.broadcast_command(RankCommand(STEP, scheduled.plan))
            launched = (scheduled, self._runner.execute_async(scheduled.plan))
        due = launched
        if self._config.overlap:
            due, self._in_flight = self._in_flight, launched
        if due is None:
            if scheduled is None and (self._scheduler.num_running or self._scheduler.num_waiting):
                raise RuntimeError("requests are left, but no step can be scheduled")
            return StepResult(scheduled, [], idle=scheduled is None, started_at=started_at)
        ids = self._runner.wait(due[1])
        outputs = self._scheduler.update_from_output(
            due[0], ids, self._runner.logprobs(due[1]), self._runner.verified(due[1])
        )
        self.step_time.observe(time.perf_counter() - started)
        return StepResult(scheduled, outputs, idle=False, started_at=started_at)

    def prepare(self, *, idle: bool) -> bool:
        """Let the runner prepare for later steps, rarely unless it is idle. Returns whether it did something.

        A first preparation on a machine may compile kernels, and so take longer than any step.
        """
        started = time.monotonic()
        if self.is_prepared or (started < self._next_preparation and not idle):
            return False
        self.is_prepared = not (self._runner.prepare() or self._scheduler.drafter.prepare())
        now = time.monotonic()
        self._next_preparation = now + (now - started) / MAX_PREPARE_SHARE
        return not self.is_prepared

    def seconds_until_heartbeat(self) -> float | None:
        """Seconds that the engine thread may sleep when it is idle; None: until a request arrives.

        A single rank needs heartbeats only to learn of slots that were pinned meanwhile.
        """
        if self._config.world_size == 1:
            is_needed = self._scheduler.cache.host.waits_for_slots
        else:
            is_needed = self._config.heartbeat > 0
        if not is_needed:
            return None
        return max(0.0, self._next_heartbeat - time.monotonic())

    def stop(self) -> None:
        """Wait for the step in flight, and send STOP to the other ranks."""
        if self._in_flight is not None:
            self._runner.wait(self._in_flight[1])
        self._communicator.broadcast_command(RankCommand(STOP))

    def close(self) -> None:
        """Release the device and its memory, which takes seconds for a large host tier. `stop` comes before."""
        self._scheduler.drafter.close()
        self._runner.close()
        self._communicator.close()

    def learn_ready_slots(self) -> None:
        """Ask every rank now how many slots of the host tier are ready."""
        self._next_heartbeat = 0.0
        self._heartbeat()

    def _heartbeat(self) -> None:
        """When one is due, send NOP, which every rank answers at once with its allocated bytes and ready slots."""
        now = time.monotonic()
        if now < self._next_heartbeat or (not self._config.heartbeat and self._config.world_size > 1):
            return
        self._next_heartbeat = now + (self._config.heartbeat or MEMORY_INTERVAL)
        self._communicator.broadcast_command(RankCommand(NOP))
        self.rank_memory = self._communicator.all_gather(self._runner.allocated_bytes())
        host = self._scheduler.cache.host
        host.grow(min(self._communicator.all_gather(self._runner.num_ready_slots)))
        if host.num_slots < host.max_slots and 2 * host.num_free_slots <= host.num_slots:
            self._next_heartbeat = min(self._next_heartbeat, now + GROWTH_INTERVAL)
