"""Scheduled cleanup, and the guard that keeps a jumping clock from ending everybody's dialogs.

APScheduler decides by the wall clock, and so do we when a dialog counts as idle. A run is skipped when the wall clock
moved otherwise than time did, or when it would end more than half of all open dialogs: if the next run, with a clock
that ran straight in between, sees the same, it is no accident (a bot that was off for two weeks) and goes ahead.
What a run does is models.cleanup's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from bot.settings import Settings
from models.database import Database
from models.errors import DatabaseUnavailable
from models.maintenance.cleanup import CleanupReport, clean, count_idle_dialogs
from models.queries.retention import RetentionLimits

GUILD_GRACE = timedelta(days=7)
CLOCK_TOLERANCE = 300.0
SUSPICIOUS_SHARE = 0.5
# With fewer open dialogs than this a share says nothing.
SUSPICIOUS_FROM = 10

_log = structlog.get_logger(__name__)


def limits_of(settings: Settings) -> RetentionLimits:
    return RetentionLimits(
        session_ttl=settings.session_ttl,
        retention=timedelta(days=settings.retention_days),
        guild_grace=GUILD_GRACE,
    )


def utc_now() -> datetime:
    return datetime.now(UTC)


class RetentionJobs:
    """Owns the scheduler. `start` needs a running event loop; the first run comes at once."""

    def __init__(
        self,
        *,
        database: Database,
        settings: Settings,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._limits = limits_of(settings)
        self._interval = settings.cleanup_interval
        self._wall = wall
        self._monotonic = monotonic
        self._anchor = (wall(), monotonic())
        self._suspected = False
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._run: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._scheduler.add_job(
            self._scheduled,
            IntervalTrigger(seconds=max(1, round(self._interval.total_seconds())), timezone=UTC),
            id="cleanup",
            next_run_time=datetime.now(UTC),
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )
        self._scheduler.start()

    async def close(self) -> None:
        """No further run, and the one that is under way has ended: the database may be closed after this."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)  # cancels the run; it does not wait for it, whatever it is told
        if self._run is not None:
            await asyncio.wait([self._run])

    async def _scheduled(self) -> None:
        self._run = asyncio.current_task()
        await self.run_once()

    async def run_once(self) -> CleanupReport | None:
        """One guarded run; None if it was skipped. Never raises for a database that is away: the next run tries."""
        try:
            now = self._wall()
            if self._clock_jumped(now) or await self._too_much_at_once(now):
                return None
            report = await clean(self._database, limits=self._limits, now=now)
        except DatabaseUnavailable as error:
            _log.warning("cleanup put off, the database is not available", reason=error.reason)
            return None
        _log.info("cleanup done", **{name: value for name, value in report.rows() if value})
        return report

    def _clock_jumped(self, now: datetime) -> bool:
        wall, monotonic = self._anchor
        self._anchor = (now, self._monotonic())
        drift = (now - wall).total_seconds() - (self._anchor[1] - monotonic)
        if abs(drift) <= CLOCK_TOLERANCE:
            return False
        # What a jumped clock says now is what the next run compares with: it must run straight from here on.
        self._suspected = False
        _log.warning("cleanup skipped, the clock jumped", seconds=round(drift))
        return True

    async def _too_much_at_once(self, now: datetime) -> bool:
        seen = await count_idle_dialogs(self._database, limits=self._limits, now=now)
        if seen.open_dialogs < SUSPICIOUS_FROM or seen.would_end <= seen.open_dialogs * SUSPICIOUS_SHARE:
            self._suspected = False
            return False
        if self._suspected:
            self._suspected = False
            return False
        self._suspected = True
        _log.warning("cleanup skipped once, it would end most dialogs", open=seen.open_dialogs, ending=seen.would_end)
        return True
