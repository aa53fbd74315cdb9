"""Which threads are bound: started by a member for a conversation with the bot, in which every message counts.

Bindings are cached, so that an event can be judged without waiting for the database. Another process on the same
database sees a new one within `UNKNOWN_FOR` seconds. Knows no Discord.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from bot.guilds.read_through_cache import ReadThroughCache
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
_USE_RECORDED_EVERY = timedelta(days=1)
_Thread = tuple[int, int]
"""A guild and a thread in it."""


class BoundThreads:
    """The bound threads of every guild in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: ReadThroughCache[_Thread, ThreadBinding | None] = ReadThroughCache(
            self._stored, fresh_for=lambda binding: UNKNOWN_FOR if binding is None else FRESH
        )

    async def get(self, guild_id: int, thread_id: int) -> ThreadBinding | None:
        """The binding of a thread, or None. Concurrent callers share one read and continue in the order of their calls.

        Returns at once what is cached. Raises DatabaseUnavailable.
        """
        return await self._cache.get((guild_id, thread_id))

    async def bind(self, key: DialogKey, *, parent_id: int) -> bool:
        """Bind the key's thread for its member. False if it was bound before. Raises DatabaseUnavailable."""
        now = datetime.now(UTC)
        with translate_database_errors():
            is_new = await self._database.run(
                lambda session: bind_thread(session, key=key, parent_id=parent_id, now=now)
            )
        binding = ThreadBinding(key.channel_id, key.guild_id, parent_id, now, key.user_id)
        self._cache.keep((key.guild_id, key.channel_id), binding)
        return is_new

    async def unbind(self, guild_id: int, thread_id: int) -> None:
        """Forget a thread that was deleted. Raises DatabaseUnavailable."""
        self._cache.keep((guild_id, thread_id), None)
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
            self._cache.keep((guild_id, thread_id), None)

    async def _stored(self, thread: _Thread) -> ThreadBinding | None:
        guild_id, thread_id = thread
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
        return binding
