"""Runs Python's full garbage collections while the engine is idle.

A full collection stops every thread for 0.1 to 0.4 s when the KV cache has about 80,000 pages. While many requests ran,
Python ran one about every 10 s. Reference counts free most objects without the collector, and young objects are still
collected as usual, in milliseconds. Only old objects in reference cycles wait for a full collection.

It knows the collector and when steps ran. It does not know what the objects are. The collector's settings affect the
whole process, so only a process of the engine's own calls `freeze_gc`.
"""

import gc
import time
from collections.abc import Callable
from typing import Final

ENOUGH_STEPS: Final = 1_000  # since the last full collection; fewer steps leave little to collect
MOST_STEPS: Final = 50_000  # then even while requests run; with many rows, this takes 7 minutes or more
REST: Final = 1.0  # seconds without a step, after which a message is unlikely to arrive during the collection
MOST_YOUNG: Final = 2_000  # collections of younger objects, then Python runs a full one: connections leave cycles, too


def freeze_gc(*, defer_full: bool = False) -> None:
    """Exclude the objects that exist now from all collections, and turn the collector on.

    With `defer_full`, `FullCollections` runs the full ones, and Python only after MOST_YOUNG others.
    """
    gc.collect()
    gc.freeze()
    if defer_full:
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, MOST_YOUNG)
    gc.enable()


class FullCollections:
    """Runs the full collections that `freeze_gc` deferred; runs none if it deferred none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: the time in seconds, monotonic."""
        self._clock = clock
        self._num_steps = 0
        self._last_step_at = -REST

    def seconds_until_due(self) -> float | None:
        """Seconds after which an idle engine should call `step`; None: there is little to collect."""
        if self._num_steps < ENOUGH_STEPS:
            return None
        return max(0.0, self._last_step_at + REST - self._clock())

    def step(self, *, idle: bool) -> None:
        """Run a full collection if one is due. Call it after each step, and with `idle` when there was none to run."""
        if not idle:
            self._num_steps += 1
            self._last_step_at = self._clock()
        due = self.seconds_until_due()
        if due is not None and ((idle and due == 0.0) or self._num_steps >= MOST_STEPS):
            self._num_steps = 0
            if gc.get_threshold()[2] == MOST_YOUNG:
                gc.collect()
