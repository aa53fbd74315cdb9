"""A job that runs all the time: it stores replies that could not be saved, and ends the turns of dead processes.

It also notices a SQLite file that was deleted or replaced while no query runs. The work is in `ChatService.recover`,
bot/chat/heartbeat.py and models/queries/replies/recovery.py; the messages on Discord are finished by
bot/cogs/unfinished_replies.py.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog

from bot.chat.heartbeat import INTERVAL, Heartbeat
from bot.chat.service import ChatService
from bot.errors import DatabaseUnavailable
from bot.settings import Settings
from bot.storage import translate_database_errors
from models.database import Database
from models.migrate import head_revision
from models.queries.replies.recovery import interrupt_dead_turns

log = structlog.get_logger(__name__)


class RecoveryJob:
    """Runs until `close`. A database that is away is logged once for each reason, and tried again."""

    def __init__(self, *, database: Database, chat: ChatService, settings: Settings) -> None:
        self._database = database
        self._chat = chat
        self._interval = min(INTERVAL, max(1.0, settings.cleanup_interval.total_seconds()))
        self._revision = head_revision()
        self._last_reason = ""
        self._heartbeat = Heartbeat(database, self._interval)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background of the running event loop."""
        self._heartbeat.start()
        self._task = asyncio.create_task(self._run(), name="recovery")

    async def close(self) -> None:
        """Stop, once no reply is being written any more; the database may be closed after this."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._heartbeat.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self.run_once()

    async def run_once(self) -> None:
        """One round. Never raises."""
        try:
            with translate_database_errors():
                await self._database.check_file(self._revision)
                await self._chat.recover()
                await self._heartbeat.find_lost()
                now = datetime.now(UTC)
                ended = await self._database.run(lambda session: interrupt_dead_turns(session, now=now))
        except DatabaseUnavailable as error:
            if error.reason != self._last_reason:
                log.error("the database cannot be used", reason=error.reason)
            self._last_reason = error.reason
        except Exception:
            log.exception("recovery failed, and is tried again")
        else:
            if self._last_reason:
                log.info("the database can be used again")
            self._last_reason = ""
            if ended:
                log.info("turns of ended processes were marked interrupted", turns=ended)
