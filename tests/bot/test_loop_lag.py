"""A late event loop is counted each time and logged once a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import pytest
import structlog

from bot.loop_lag import INTERVAL, LoopLag


class Loop:
    """A loop whose sleeps take longer by these lags, and which then ends."""

    def __init__(self, lags: Iterable[float]) -> None:
        self.now = 0.0
        self._lags = iter(lags)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        lag = next(self._lags, None)
        if lag is None:
            raise asyncio.CancelledError
        self.now += seconds + lag


async def measured(*lags: float) -> tuple[LoopLag, list[dict[str, object]]]:
    loop = Loop(lags)
    monitor = LoopLag(clock=loop.clock, sleep=loop.sleep)
    with structlog.testing.capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await monitor.run()
    return monitor, list(logs)


async def test_a_loop_in_time_is_not_mentioned() -> None:
    monitor, logs = await measured(0.0, 0.01, 0.25, 0.2)
    assert (monitor.num_late, logs) == (0, [])


async def test_a_late_loop_is_counted_and_logged_once_a_minute() -> None:
    a_minute_later = [0.0] * int(60 / INTERVAL)
    monitor, logs = await measured(0.3, 0.7, 0.4, *a_minute_later, 0.0)
    assert (monitor.num_late, monitor.longest) == (3, pytest.approx(0.7))
    assert [(each["log_level"], each["times"], each["longest_ms"]) for each in logs] == [
        ("warning", 1, 300),
        ("warning", 2, 700),
    ]
    assert logs[-1]["times_in_all"] == 3


async def test_it_notices_a_call_that_really_blocks() -> None:
    monitor = LoopLag()
    monitor.start()
    await asyncio.sleep(0.05)
    time.sleep(0.7)  # noqa: ASYNC251
    await asyncio.sleep(0.05)
    await monitor.close()
    assert monitor.num_late == 1
    assert 0.3 < monitor.longest < 5
