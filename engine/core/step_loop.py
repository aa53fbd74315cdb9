"""The torch thread's work: plan a step, tell the other ranks, launch it, read the ids of a step, again.

With `overlap`, step n + 1 is launched before the ids of step n are read, so the device never waits for Python; a
reply's end is then seen one step late, and the id of that extra step is dropped.

It knows the order of these things. Who asked, and who is told, is the core's business.
"""

import time
from dataclasses import dataclass

from engine.config import EngineConfig
from engine.core.stats import STEP_BOUNDS, Histogram
from engine.distributed.communicator import Ranks
from engine.runner.base import AnyRunner
from engine.scheduler.output import Output, Step
from engine.scheduler.scheduler import Scheduler
from engine.scheduler.step_plan import NOP, STEP, STOP, Order


@dataclass(frozen=True, slots=True)
class Turn:
    """What one pass brought: the step that was launched, and what an earlier or this one sampled."""

    launched: Step | None
    outputs: list[Output]
    idle: bool


class Loop:
    def __init__(self, config: EngineConfig, scheduler: Scheduler, runner: AnyRunner, ranks: Ranks) -> None:
        self._config, self._scheduler, self._runner, self._ranks = config, scheduler, runner, ranks
        self._flying: tuple[Step, object] | None = None
        self._next_beat = 0.0
        self.step_time = Histogram(STEP_BOUNDS)
        self.rank_memory: tuple[int, ...] = (0,)

    def turn(self) -> Turn:
        """One pass. Raises whatever a rank's failure raises."""
        self._beat()
        began = time.perf_counter()
        step = self._scheduler.plan()
        launched: tuple[Step, object] | None = None
        if step is not None:
            self._ranks.send(Order(STEP, step.plan))
            launched = (step, self._runner.launch(step.plan))
        landing = launched
        if self._config.overlap:
            landing, self._flying = self._flying, launched
        if landing is None:
            if step is None and (self._scheduler.running or self._scheduler.waiting):
                raise RuntimeError("requests are left that no step can serve")
            return Turn(step, [], idle=step is None)
        outputs = self._scheduler.accept(landing[0], self._runner.collect(landing[1]))
        self.step_time.observe(time.perf_counter() - began)
        return Turn(step, outputs, idle=False)

    def until_beat(self) -> float | None:
        """Seconds that the thread may sleep; None: for as long as nothing happens."""
        if self._config.world_size == 1 or not self._config.heartbeat:
            return None
        return max(0.0, self._next_beat - time.monotonic())

    def close(self) -> None:
        """Read what is in flight, send the other ranks away, release the device."""
        if self._flying is not None:
            self._runner.collect(self._flying[1])
        self._ranks.send(Order(STOP))
        self._runner.close()
        self._ranks.close()

    def _beat(self) -> None:
        """A sign of life, also under load: the others answer it at once, with the memory that they hold."""
        now = time.monotonic()
        if now < self._next_beat or (not self._config.heartbeat and self._config.world_size > 1):
            return
        self._next_beat = now + (self._config.heartbeat or MEMORY_LOOK)
        self._ranks.send(Order(NOP))
        self.rank_memory = self._ranks.gather(self._runner.memory())


def obey(runner: AnyRunner, ranks: Ranks) -> None:
    """Every other rank: do what rank 0 says until it says STOP, one step behind with reading, as rank 0 is."""
    flying: object | None = None
    while (order := ranks.receive()).op != STOP:
        if order.plan is None:
            ranks.gather(runner.memory())
            continue
        launched = runner.launch(order.plan)
        if flying is not None:
            runner.collect(flying)
        flying = launched
    if flying is not None:
        runner.collect(flying)
    runner.close()
    ranks.close()


MEMORY_LOOK = 5.0  # seconds between looks at a single rank's memory
