"""Which threads are bound: started by a member for a conversation with the bot, in which every message counts.

Bindings are cached, so that an event can be judged without waiting for the database. Another process on the same
database sees a new one within `UNKNOWN_FOR` seconds. Knows no Discord.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta

import structlog

from bot.storage import translate_database_errors
from models.database import Database
from models.errors import DatabaseError
from models.queries.tenants.threads import bind_thread, thread_binding, unbind_thread, unbind_threads_of, use_thread
from models.types import DialogKey, ThreadBinding

log = structlog.get_logger(__name__)

FRESH = 60.0
"""Seconds for which a cached binding is used."""
UNKNOWN_FOR = 3.0
"""Seconds for which a thread counts as not bound before the database is asked again."""
_MAX_CACHED = 10_000
_USE_RECORDED_EVERY = timedelta(days=1)


class BoundThreads:
    """The bound threads of every guild in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cached: OrderedDict[int, tuple[float, ThreadBinding | None]] = OrderedDict()
        self._reading: dict[int, asyncio.Task[ThreadBinding | None]] = {}

    async def get(self, guild_id: int, thread_id: int) -> ThreadBinding | None:
        """The binding of a thread, or None. Concurrent callers share one read and continue in the order of their calls.

        Returns at once what is cached. Raises DatabaseUnavailable.
        """
        cached_at, binding = self._cached.get(thread_id, (-FRESH, None))
        if time.monotonic() - cached_at < (UNKNOWN_FOR if binding is None else FRESH):
            return binding
        if (reading := self._reading.get(thread_id)) is None:
            reading = self._reading[thread_id] = asyncio.create_task(self._read(guild_id, thread_id))
            reading.add_done_callback(lambda _: self._reading.pop(thread_id))
        return await asyncio.shield(reading)

    async def bind(self, key: DialogKey, *, parent_id: int) -> bool:
        """Bind the key's thread for its member. False if it was bound before. Raises DatabaseUnavailable."""
        now = datetime.now(UTC)
        with translate_database_errors():
            is_new = await self._database.run(
                lambda session: bind_thread(session, key=key, parent_id=parent_id, now=now)
            )
        self._cache(key.channel_id, ThreadBinding(key.channel_id, key.guild_id, parent_id, now, key.user_id))
        return is_new

    async def unbind(self, guild_id: int, thread_id: int) -> None:
        """Forget a thread that was deleted. Raises DatabaseUnavailable."""
        self._cache(thread_id, None)
        with translate_database_errors():
            gone = await self._database.run(
                lambda session: unbind_thread(session, guild_id=guild_id, thread_id=thread_id)
            )
        if gone:
            log.info("a bound thread was deleted", guild=guild_id, thread=thread_id)

    async def unbind_channel(self, guild_id: int, channel_id: int) -> None:
        """Forget the threads of a channel that was deleted. Raises DatabaseUnavailable."""
        with translate_database_errors():
            gone = await self._database.run(
                lambda session: unbind_threads_of(session, guild_id=guild_id, parent_id=channel_id)
            )
        for thread_id in gone:
            self._cache(thread_id, None)

    async def _read(self, guild_id: int, thread_id: int) -> ThreadBinding | None:
        key = DialogKey(guild_id, 0, thread_id)
        now = datetime.now(UTC)
        with translate_database_errors():
            async with self._database.read() as session:
                binding = await thread_binding(session, key=key)
        if binding is not None and now - binding.last_used_at > _USE_RECORDED_EVERY:
            try:
                await self._database.run(lambda session: use_thread(session, key=key, now=now))
            except DatabaseError as error:
                log.info("the use of a thread was not recorded", thread=thread_id, error=type(error).__name__)
        self._cache(thread_id, binding)
        return binding

    def _cache(self, thread_id: int, binding: ThreadBinding | None) -> None:
        self._cached[thread_id] = (time.monotonic(), binding)
        self._cached.move_to_end(thread_id)
        if len(self._cached) > _MAX_CACHED:
            self._cached.popitem(last=False)
