"""What each member chose for themselves in a guild, or in direct messages: read with commands, changed rarely.

A choice can only make less of what the guild allows. It is cached, so that a command knows soon whether its answer is
private. Another process on the same database sees a change within `FRESH` seconds. Knows no Discord.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from bot.errors import Hint
from bot.guilds.read_through_cache import ReadThroughCache
from bot.i18n.language import gettext as _
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.types import DialogKey, MemberSettings

log = structlog.get_logger(__name__)

FRESH = 30.0
"""Seconds for which cached settings are used."""
PATIENCE = 1.0
"""Seconds that a command waits for them, of the 3 in which it must be acknowledged."""
SHORT_PATIENCE = 0.3
"""Seconds that every use of the bot waits for the language of its answer."""
_MAX_CACHED = 20_000

OwnChange = Callable[[MemberSettings], MemberSettings]


class MemberSettingsCache:
    """The settings of every member in one database. The channel of a key does not matter."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache = ReadThroughCache(self._stored, fresh_for=lambda _: FRESH, max_entries=_MAX_CACHED)

    def known(self, key: DialogKey) -> MemberSettings | None:
        """What was last known of the member's choice, or None. Never waits."""
        return self._cache.last_known(_member(key))

    async def read(self, key: DialogKey) -> MemberSettings:
        """What the member chose, from the database."""
        return await self._cache.read(_member(key))

    async def wants_private(self, key: DialogKey) -> bool:
        """Whether answers are to be private where the command does not say.

        Never waits long: while the database does not answer, what was last known counts, and private if nothing is.
        """
        known = await self._soon(key, PATIENCE)
        return True if known is None else bool(known.private)

    async def locale(self, key: DialogKey) -> str | None:
        """The language that the member chose; None if they chose none, or if it is not known soon."""
        known = await self._soon(key, SHORT_PATIENCE)
        return None if known is None else known.locale

    async def change(self, key: DialogKey, change: OwnChange) -> MemberSettings:
        """Apply `change` to what the member chose. Returns the new settings. Raises Hint if they opted out of storage.

        What `change` raises leaves everything as it was.
        """

        async def store() -> MemberSettings:
            now = datetime.now(UTC)
            with translate_database_errors():
                after = await self._database.run(
                    lambda session: queries.change_member_settings(session, key=key, change=change, now=now)
                )
            if after is None:
                raise Hint(
                    _(
                        "You opted out, so I store nothing about you, not even settings. "
                        "`/privacy optin` takes that back."
                    )
                )
            return after

        return await self._cache.change(_member(key), store)

    async def _soon(self, key: DialogKey, patience: float) -> MemberSettings | None:
        """What the member chose, or was last known of it while the database does not answer.

        Callers go on in their order, so that a member's messages keep theirs.
        """
        try:
            async with asyncio.timeout(patience):
                return await self._cache.get(_member(key))
        except Exception as error:  # the command itself will meet the same error, and report it
            log.warning("a member's settings could not be read", error=type(error).__name__)
            return self.known(key)

    async def _stored(self, member: DialogKey) -> MemberSettings:
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.member_settings(session, key=member)


def _member(key: DialogKey) -> DialogKey:
    return DialogKey(key.guild_id, key.user_id)
