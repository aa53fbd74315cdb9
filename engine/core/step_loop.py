"""The torch thread's work: plan a step, tell the other ranks, launch it, read the ids of a step, again.

With `overlap`, step n + 1 is launched before the ids of step n are read, so the device never waits for Python; a
reply's end is then seen one step late, and the id of that extra step is dropped.

It knows the order of these things. Who asked, and who is told, is the core's business.
"""

import time
from dataclasses import dataclass

from engine.config import EngineConfig
from engine.core.stats import STEP_BOUNDS, Histogram
from engine.distributed.communicator import Communicator
from engine.distributed.wire import NOP, STEP, STOP, RankCommand
from engine.runner.base import AnyRunner
from engine.scheduler.output import ScheduledStep, TokenOutput
from engine.scheduler.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one pass brought: the step that was launched, and what an earlier or this one sampled."""

    scheduled: ScheduledStep | None
    outputs: list[TokenOutput]
    idle: bool


class StepLoop:
    def __init__(
        self, config: EngineConfig, scheduler: Scheduler, runner: AnyRunner, communicator: Communicator
    ) -> None:
        self._config, self._scheduler, self._runner, self._communicator = config, scheduler, runner, communicator
        self._in_flight: tuple[ScheduledStep, object] | None = None
        self._next_heartbeat = 0.0
        self.step_time = Histogram(STEP_BOUNDS)
        self.rank_memory: tuple[int, ...] = (0,)

    def step(self) -> StepResult:
        """One pass. Raises whatever a rank's failure raises."""
        self._heartbeat()
        began = time.perf_counter()
        step = self._scheduler.schedule()
        launched: tuple[ScheduledStep, object] | None = None
        if step is not None:
            self._communicator.broadcast_command(RankCommand(STEP, step.plan))
            launched = (step, self._runner.execute_async(step.plan))
        landing = launched
        if self._config.overlap:
            landing, self._in_flight = self._in_flight, launched
        if landing is None:
            if step is None and (self._scheduler.num_running or self._scheduler.num_waiting):
                raise RuntimeError("requests are left that no step can serve")
            return StepResult(step, [], idle=step is None)
        outputs = self._scheduler.update_from_output(landing[0], self._runner.wait(landing[1]))
        self.step_time.observe(time.perf_counter() - began)
        return StepResult(step, outputs, idle=False)

    def seconds_until_heartbeat(self) -> float | None:
        """Seconds that the thread may sleep; None: for as long as nothing happens."""
        if self._config.world_size == 1 or not self._config.heartbeat:
            return None
        return max(0.0, self._next_heartbeat - time.monotonic())

    def close(self) -> None:
        """Read what is in flight, send the other ranks away, release the device."""
        if self._in_flight is not None:
            self._runner.wait(self._in_flight[1])
        self._communicator.broadcast_command(RankCommand(STOP))
        self._runner.close()
        self._communicator.close()

    def _heartbeat(self) -> None:
        """A sign of life, also under load: the others answer it at once, with the memory that they hold."""
        now = time.monotonic()
        if now < self._next_heartbeat or (not self._config.heartbeat and self._config.world_size > 1):
            return
        self._next_heartbeat = now + (self._config.heartbeat or MEMORY_INTERVAL)
        self._communicator.broadcast_command(RankCommand(NOP))
        self.rank_memory = self._communicator.all_gather(self._runner.allocated_bytes())


def worker_loop(runner: AnyRunner, communicator: Communicator) -> None:
    """Every other rank: do what rank 0 says until it says STOP, one step behind with reading, as rank 0 is."""
    flying: object | None = None
    while (order := communicator.receive_command()).op != STOP:
        if order.plan is None:
            communicator.all_gather(runner.allocated_bytes())
            continue
        launched = runner.execute_async(order.plan)
        if flying is not None:
            runner.wait(flying)
        flying = launched
    if flying is not None:
        runner.wait(flying)
    runner.close()
    communicator.close()


MEMORY_INTERVAL = 5.0  # seconds between looks at a single rank's memory
