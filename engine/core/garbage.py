"""When Python's garbage collector looks at all objects of the process: while nobody waits for a reply.

Such a full collection stops every thread, for 0.1 to 0.4 s with some 80,000 pages in the KV cache, and a full room made
Python run one about every 10 s. Most objects are freed without the collector, and young ones are still collected as
usual, in milliseconds; only what has lived for a while and is in a cycle waits.

It knows the collector and when steps ran. It does not know what the objects are. As it affects the whole process, it is
only for a process of the engine's own, which calls `freeze_gc`.
"""

import gc
import time
from collections.abc import Callable
from typing import Final

ENOUGH_STEPS: Final = 1_000  # since the last full collection: fewer leave little to collect
MOST_STEPS: Final = 50_000  # then even while requests run: after 7 minutes and more of a full room without a pause
REST: Final = 1.0  # seconds without a step: the next message is then probably not about to come
NEVER: Final = 1 << 30


def freeze_gc(*, defer_full: bool = False) -> None:
    """Leave the objects that exist now out of all collections, and with `defer_full` full ones to `FullCollections`.

    Collections begin here if they were off.
    """
    gc.collect()
    gc.freeze()
    if defer_full:
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)
    gc.enable()


class FullCollections:
    """Runs those that were deferred; none where Python still runs them itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: in seconds."""
        self._clock = clock
        self._num_steps = 0
        self._last_step_at = -REST

    def seconds_until_due(self) -> float | None:
        """Seconds after which an idle engine should call `step`; None: there is nothing to collect."""
        if self._num_steps < ENOUGH_STEPS:
            return None
        return max(0.0, self._last_step_at + REST - self._clock())

    def step(self, *, idle: bool) -> None:
        """Call it after each step, and with `idle` when there was none to run."""
        if not idle:
            self._num_steps += 1
            self._last_step_at = self._clock()
        due = self.seconds_until_due()
        if due is not None and ((idle and due == 0.0) or self._num_steps >= MOST_STEPS):
            self._num_steps = 0
            if gc.get_threshold()[2] == NEVER:
                gc.collect()
