"""Tells other hosts that this process is alive, and finds out which processes of other hosts are not.

Each process renews a row in the database every 15 seconds, and counts as alive for a minute from then on. All times are
the database's: the clocks of two hosts may differ. If the database was away, no process could renew its row. So after a
gap in its own heartbeats (also after its start), a process waits for a minute before it judges others.
Knows no turns: what a dead process left is ended by bot/chat/recovery.py.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog

from models.database import Database
from models.errors import DatabaseError
from models.queries.replies import processes

log = structlog.get_logger(__name__)

INTERVAL = 15.0  # seconds
_INTERVALS_IN_LEASE = 4
_SIGN_OFF_TIMEOUT = 3.0  # seconds


class Heartbeat:
    """Beats from `start` until `close`. `interval`: seconds between two beats; other processes may have another one."""

    def __init__(self, database: Database, interval: float = INTERVAL) -> None:
        self._database = database
        self._interval = interval
        self._lease = timedelta(seconds=interval * _INTERVALS_IN_LEASE)
        self._last_beat: datetime | None = None
        self._steady_since: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background of the running event loop. The first beat comes at once."""
        self._task = asyncio.create_task(self._run(), name="heartbeat")

    async def close(self) -> None:
        """Stop, and tell the others that this process has ended; the database may be closed after this."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(_SIGN_OFF_TIMEOUT):
                await self._database.run(processes.sign_off)
        except (TimeoutError, DatabaseError) as error:
            log.info("the last heartbeat stays in the database", error=type(error).__name__)

    async def beat(self) -> None:
        """Renew this process's row. Raises the DatabaseUnavailable of `models`."""
        beat = await self._database.run(lambda session: processes.beat(session, lease=self._lease))
        if self._last_beat is None or not timedelta() <= beat.now - self._last_beat <= self._lease / 2:
            self._steady_since = beat.now
        self._last_beat = beat.now
        if beat.was_lost:
            log.warning(
                "another process took this one for dead, since its heartbeats did not reach the database in time; "
                "replies that are being written go on"
            )

    async def find_lost(self) -> int:
        """Mark the processes whose heartbeats stopped, and return how many. Raises DatabaseUnavailable of `models`."""
        lost = await self._database.run(lambda session: processes.mark_lost(session, may_judge=self._may_judge))
        for owner in lost:
            log.warning("another process has died", process=owner)
        return len(lost)

    def _may_judge(self, now: datetime) -> bool:
        """Whether this process and its database worked without a gap for as long as others count as alive."""
        if self._last_beat is None or self._steady_since is None:
            return False
        return timedelta() <= now - self._last_beat <= self._lease / 2 and now - self._steady_since >= self._lease

    async def _run(self) -> None:
        while True:
            pause = self._interval
            try:
                async with asyncio.timeout(self._lease.total_seconds() / 2):  # a connection may hang for hours
                    await self.beat()
            except (TimeoutError, DatabaseError):  # bot/chat/recovery.py says so
                pause /= 3
            except Exception:
                log.exception("a heartbeat failed, and is tried again")
            await asyncio.sleep(pause)
