"""Who is blocked in which guild: asked before anything is served, changed by admins.

The blocks of a guild are kept in memory, so that an interaction can be refused before it is deferred. Another process
on the same database sees a change within `FRESH` seconds; until then the begin transaction of a reply refuses. Knows no
Discord.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import structlog

from bot.errors import DatabaseUnavailable
from bot.guilds.read_through_cache import ReadThroughCache
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.queries.administration import blocks, members
from models.types import DIRECT_MESSAGES, Block, DialogKey, MemberOverview

log = structlog.get_logger(__name__)

FRESH = 30.0
"""Seconds after which the blocks of a guild are read again."""
WAIT = 1.0
"""Seconds that an interaction waits for them where none are known, of the 3 in which it must be answered."""
MAX_REASON = 300
"""Characters of a reason."""
_Blocks = Mapping[int, Block]


class MemberBlocks:
    """The blocks of every guild in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: ReadThroughCache[int, _Blocks] = ReadThroughCache(self._stored, fresh_for=lambda _: FRESH)

    def known(self, guild_id: int, user_id: int) -> Block | None:
        """The block of a member that holds now, as far as it is known. Never waits."""
        block = (self._cache.last_known(guild_id) or {}).get(user_id)
        return block if block is not None and block.holds(datetime.now(UTC)) else None

    async def ready(self, guild_id: int) -> None:
        """Have the blocks of a guild known. What is known but old is read again meanwhile, and used until then.

        Waits a moment at most: with a database that slow nothing else is served either, and a reply is refused when it
        begins.
        """
        if guild_id == DIRECT_MESSAGES or self._cache.fresh(guild_id) is not None:
            return
        reading = self._cache.refresh(guild_id)
        if self._cache.last_known(guild_id) is None:
            await asyncio.wait([reading], timeout=WAIT)

    async def overview(self, key: DialogKey, days: int) -> MemberOverview:
        """The use of the key's member in the key's guild, and whether they are blocked."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await members.member_overview(session, key=key, days=days, now=datetime.now(UTC))

    async def block(self, key: DialogKey, *, lasts: timedelta | None, reason: str | None, actor_id: int) -> Block:
        """Block the key's member in the key's guild, until a time has passed or (None) for good."""
        now = datetime.now(UTC)
        until = None if lasts is None else now + lasts
        await self._store(key, blocked=True, until=until, reason=reason, actor_id=actor_id, now=now)
        return Block(key.user_id, now, until, actor_id, reason)

    async def unblock(self, key: DialogKey, *, actor_id: int) -> bool:
        """End the block of the key's member. False if there was none."""
        return await self._store(key, blocked=False, until=None, reason=None, actor_id=actor_id, now=datetime.now(UTC))

    async def pending_questions(self, key: DialogKey) -> tuple[int, ...]:
        """What asked for the replies to the key's member that any process writes now."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await members.pending_questions(session, key=key)

    async def _store(
        self, key: DialogKey, *, blocked: bool, until: datetime | None, reason: str | None, actor_id: int, now: datetime
    ) -> bool:
        try:
            with translate_database_errors():
                done = await self._database.run(
                    lambda session: queries.block_member(
                        session, key=key, blocked=blocked, actor_id=actor_id, now=now, reason=reason, until=until
                    )
                )
        finally:
            self._cache.outdate(key.guild_id)
        with contextlib.suppress(DatabaseUnavailable):  # it is logged, and read again before long
            await self._cache.read(key.guild_id)
        return done

    async def _stored(self, guild_id: int) -> _Blocks:
        try:
            with translate_database_errors():
                async with self._database.read() as session:
                    found = await blocks.blocks_of_guild(session, key=DialogKey(guild_id, 0), now=datetime.now(UTC))
        except DatabaseUnavailable as error:
            log.warning("who is blocked could not be read", guild=guild_id, reason=error.reason)
            raise
        return {each.user_id: each for each in found}
