"""Notices when the event loop is late: something blocked it, and heartbeats and acknowledgements wait as well.

Discord ends a gateway session whose heartbeats do not come, and drops an interaction that is not acknowledged within
3 s. Four times a second it looks how late it is woken up. Knows nothing of what blocks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from bot.telemetry.metrics import LOOP_LAG_SECONDS

log = structlog.get_logger(__name__)

INTERVAL = 0.25  # seconds between two looks
MAX_LAG = 0.25  # seconds; more is counted and logged
WARNING_INTERVAL = 60.0  # seconds between two warnings at least


class LoopLag:
    """Measures the loop it runs in, from `start` until `close`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.num_late = 0
        """How often the loop was late by more than MAX_LAG."""
        self.longest = 0.0
        """The longest lag, in seconds."""
        self._clock = clock
        self._sleep = sleep
        self._warned_at: float | None = None
        self._num_since = 0
        self._longest_since = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to measure, in the background of the running loop."""
        self._task = asyncio.create_task(self.run(), name="loop-lag")

    async def close(self) -> None:
        """Stop measuring."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run(self) -> None:
        """Measure for ever."""
        while True:
            due = self._clock() + INTERVAL
            await self._sleep(INTERVAL)
            now = self._clock()
            LOOP_LAG_SECONDS.observe(max(0.0, now - due))
            if now - due > MAX_LAG:
                self._count(now - due)
            if self._num_since and (self._warned_at is None or now - self._warned_at >= WARNING_INTERVAL):
                self._warn(now)

    def _count(self, lag: float) -> None:
        self.num_late += 1
        self._num_since += 1
        self.longest = max(self.longest, lag)
        self._longest_since = max(self._longest_since, lag)

    def _warn(self, now: float) -> None:
        log.warning(
            "the event loop was blocked; heartbeats and acknowledgements came late",
            longest_ms=round(1000 * self._longest_since),
            times=self._num_since,
            times_in_all=self.num_late,
        )
        self._warned_at = now
        self._num_since = 0
        self._longest_since = 0.0
