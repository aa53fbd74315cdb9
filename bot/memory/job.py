"""The job that remembers: it looks for dialogs to write about, and works only while no member waits for a reply.

Knows the queries that find work, and when to do it; what is written is the writer's. Knows no engine.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from bot.memory.quiet import QuietTime
from bot.memory.writer import MemoryWriter
from models.database import Database
from models.errors import DatabaseError, DatabaseUnavailable
from models.queries.memory import work
from models.types import MemoryTask

log = structlog.get_logger(__name__)

SETTLE = 1.0
"""Seconds of quiet before work begins: the next message often follows soon."""
POLL = 30.0
"""Seconds between two looks without a reply in between: a dialog may rest for long enough now."""
_RECENT = timedelta(days=1)
"""Dialogs that rested for longer have been searched, or were used before their member chose to be remembered."""
_MAX_DIALOGS = 50
_CLOSE_TIMEOUT = 3.0  # seconds


class MemoryJob:
    """Runs from `start` until `close`."""

    def __init__(
        self,
        *,
        database: Database,
        writer: MemoryWriter,
        quiet: QuietTime,
        settle: float = SETTLE,
        poll: float = POLL,
    ) -> None:
        self._database = database
        self._writer = writer
        self._quiet = quiet
        self._settle = settle
        self._poll = poll
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background of the running event loop."""
        self._quiet.on_quiet = self._woken.set
        self._task = asyncio.create_task(self._run(), name="memory")

    async def close(self) -> None:
        """Stop, and give back what this process claimed; the database may be closed after this."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError, DatabaseError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._database.run(work.release_all)

    async def run_once(self) -> int:
        """Look for dialogs with something to remember, and work on them while it is quiet; return how many."""
        now = datetime.now(UTC)
        async with self._database.read() as session:
            tasks = await work.dialogs_to_remember(session, active_after=now - _RECENT, limit=_MAX_DIALOGS, now=now)
        done = 0
        for task in tasks:
            if not self._writer.is_due(task, now):
                continue
            if not await self._writer.may_ask(task):
                return done
            if await self._quiet.run(partial(self._work_on, task)) is None:
                return done
            done += 1
        return done

    async def _work_on(self, task: MemoryTask) -> bool:
        await self._writer.work_on(task)
        return True

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            await self._quiet.wait()
            await asyncio.sleep(self._settle)
            done = 0
            try:
                done = await self.run_once()
            except DatabaseUnavailable as error:  # bot/chat/recovery.py says so
                log.debug("nothing was remembered", reason=str(error))
            except Exception:
                log.exception("the memory failed, and is tried again")
            if not done:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll):
                        await self._woken.wait()
