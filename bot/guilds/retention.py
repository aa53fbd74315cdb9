"""Schedules the cleanup, and skips a run when the clock cannot be trusted.

APScheduler uses the wall clock, and so does the rule for idle dialogs. A run is skipped if the wall clock and the
monotonic clock moved differently since the last one, or if it would end more than half of all open dialogs. In the
second case the next run goes ahead if it finds the same and the clock was steady in between: the bot may have been off
for two weeks. models.maintenance.cleanup does the work of a run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from bot.settings import Settings
from bot.telemetry.metrics import CLEANED, CLEANUP_LAST, CLEANUP_ROWS, CLEANUP_RUNS, CLEANUP_SECONDS
from models.database import Database, Session
from models.errors import DatabaseUnavailable
from models.maintenance.cleanup import CleanupReport, Fence, clean, count_idle_dialogs, delete_due_purges
from models.queries.deletion.retention import RetentionLimits

GUILD_GRACE = timedelta(days=7)
"""How long the data of a guild is kept after it removed the bot."""
CLOCK_TOLERANCE = 300.0
"""Seconds by which the two clocks may differ between two runs."""
PURGE_INTERVAL = 60.0
"""Seconds between two looks for what admins deleted and can no longer bring back."""
SUSPICIOUS_SHARE = 0.5
MIN_OPEN_DIALOGS = 10
"""With fewer open dialogs a share means nothing."""

_log = structlog.get_logger(__name__)


def limits_of(settings: Settings) -> RetentionLimits:
    """The limits of the cleanup, for guilds and members that chose none of their own."""
    return RetentionLimits(
        session_ttl=settings.session_ttl,
        retention=timedelta(days=settings.retention_days),
        guild_grace=GUILD_GRACE,
        reports=timedelta(days=settings.report_retention_days),
    )


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Lead(Protocol):
    """Whether this process is the one that cleans up."""

    async def confirm(self) -> bool:
        """Whether it is, now."""

    async def fence(self, session: Session) -> None:
        """Make sure that it is until this transaction ends; raises DatabaseUnavailable if not."""


class RetentionJobs:
    """Owns the scheduler. `lead`: only the leader cleans up. `wall` and `monotonic` are the two clocks."""

    def __init__(
        self,
        *,
        database: Database,
        settings: Settings,
        lead: Lead | None = None,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._lead = lead
        self._settings = settings
        self._interval = settings.cleanup_interval
        self._wall = wall
        self._monotonic = monotonic
        self._last_clocks = (wall(), monotonic())
        self._was_suspicious = False
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._running: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the scheduler in the running event loop. The first run comes at once."""
        self._scheduler.add_job(
            self._scheduled,
            IntervalTrigger(seconds=max(1, round(self._interval.total_seconds())), timezone=UTC),
            id="cleanup",
            next_run_time=datetime.now(UTC),
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )
        self._scheduler.add_job(
            self._scheduled_purges,
            IntervalTrigger(seconds=PURGE_INTERVAL, timezone=UTC),
            id="purges",
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )
        self._scheduler.start()

    async def close(self) -> None:
        """Stop the scheduler and wait until a running cleanup has ended, so that the database can be closed."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)  # it only cancels the run, even with wait=True
        if self._running:
            await asyncio.wait(self._running)

    def run_now(self) -> None:
        """Have the next run come at once: this process has become the leader."""
        if self._scheduler.running:
            self._scheduler.modify_job("cleanup", next_run_time=datetime.now(UTC))

    async def _scheduled(self) -> None:
        self._note_running()
        if self._lead is None or await self._lead.confirm():
            await self.run_once()

    async def _scheduled_purges(self) -> None:
        """Delete what admins deleted ten minutes ago. A cleanup does so too, but may run much later."""
        self._note_running()
        if self._lead is not None and not await self._lead.confirm():
            return
        try:
            deleted = await delete_due_purges(self._database, now=self._wall(), fence=self._fence)
        except DatabaseUnavailable as error:
            _log.warning("deletions of admins put off, the database is not available", reason=error.reason)
            return
        CLEANUP_ROWS.labels("purged_by_admins").inc(deleted)
        if deleted:
            _log.info("what admins deleted is gone", rows=deleted)

    @property
    def _fence(self) -> Fence | None:
        return None if self._lead is None else self._lead.fence

    def _note_running(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def run_once(self) -> CleanupReport | None:
        """Clean up once. None if the run was skipped, or if the database was unavailable: the next run tries again."""
        try:
            now = self._wall()
            if self._clock_jumped(now) or await self._too_much_at_once(now):
                CLEANUP_RUNS.labels("skipped").inc()
                return None
            with CLEANUP_SECONDS.time():
                report = await clean(self._database, limits=limits_of(self._settings), now=now, fence=self._fence)
        except DatabaseUnavailable as error:
            CLEANUP_RUNS.labels("unavailable").inc()
            _log.warning("cleanup put off, the database is not available", reason=error.reason)
            return None
        CLEANUP_RUNS.labels("done").inc()
        for name, value in report.rows():
            if name in CLEANED:
                CLEANUP_ROWS.labels(name).inc(value)
        CLEANUP_LAST.set_to_current_time()
        _log.info("cleanup done", **{name: value for name, value in report.rows() if value})
        return report

    def _clock_jumped(self, now: datetime) -> bool:
        wall, monotonic = self._last_clocks
        self._last_clocks = (now, self._monotonic())
        drift = (now - wall).total_seconds() - (self._last_clocks[1] - monotonic)
        if abs(drift) <= CLOCK_TOLERANCE:
            return False
        # The next run compares with the jumped clock, so the clock must be steady from here on.
        self._was_suspicious = False
        _log.warning("cleanup skipped, the clock jumped", seconds=round(drift))
        return True

    async def _too_much_at_once(self, now: datetime) -> bool:
        seen = await count_idle_dialogs(self._database, limits=limits_of(self._settings), now=now)
        if seen.open_dialogs < MIN_OPEN_DIALOGS or seen.would_end <= seen.open_dialogs * SUSPICIOUS_SHARE:
            self._was_suspicious = False
            return False
        if self._was_suspicious:
            self._was_suspicious = False
            return False
        self._was_suspicious = True
        _log.warning("cleanup skipped once, it would end most dialogs", open=seen.open_dialogs, ending=seen.would_end)
        return True
