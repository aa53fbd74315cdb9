"""The settings of each guild: read with every message, changed rarely, and within the operator's limits.

Settings are cached, so that an interaction can be deferred without waiting for the database. Another process on
the same database sees a change within `FRESH` seconds. Knows no Discord: who may change something is decided by the
front-ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime

from bot.guilds.read_through_cache import ReadThroughCache
from bot.guilds.settings.limits import limits_for
from bot.guilds.settings.settings_checks import check_change
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.types import DIRECT_MESSAGES, DialogKey, GuildSettings, ReplyLimits

FRESH = 30.0
"""Seconds for which cached settings are used."""

Change = Callable[[GuildSettings], GuildSettings]


class GuildSettingsCache:
    """The settings of every guild in one database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._cache = ReadThroughCache(self._stored, fresh_for=lambda _: FRESH)

    def known(self, guild_id: int) -> GuildSettings | None:
        """The cached settings of a guild, or None if the database has to be read. Never waits."""
        return GuildSettings() if guild_id == DIRECT_MESSAGES else self._cache.fresh(guild_id)

    async def get(self, guild_id: int) -> GuildSettings:
        """The settings of a guild, at most `FRESH` seconds old.

        Concurrent callers continue in the order of their calls, so that the messages of one dialog keep their order.
        """
        return GuildSettings() if guild_id == DIRECT_MESSAGES else await self._cache.get(guild_id)

    async def read(self, guild_id: int) -> GuildSettings:
        """The settings of a guild, from the database."""
        return await self._cache.read(guild_id)

    def limits_for(self, guild_id: int, guild: GuildSettings, role_ids: Collection[int]) -> ReplyLimits:
        """What applies to a member with these roles, and to the guild as a whole."""
        return limits_for(self._settings, guild_id, guild, role_ids)

    async def change(
        self, guild_id: int, change: Change, *, actor_id: int, action: str = "config.set"
    ) -> GuildSettings:
        """Apply `change` to the settings of a guild and record it in the audit log. Returns the new settings.

        What `change` raises leaves everything as it was.

        Raises AboveLimit, or BotError for a list that is too long, and then changes nothing.
        """

        def checked(before: GuildSettings) -> GuildSettings:
            after = change(before)
            self.check(before, after)
            return after

        async def store() -> GuildSettings:
            now = datetime.now(UTC)
            with translate_database_errors():
                return await self._database.run(
                    lambda session: queries.change_guild_settings(
                        session,
                        key=DialogKey(guild_id, actor_id),
                        change=checked,
                        actor_id=actor_id,
                        now=now,
                        action=action,
                    )
                )

        return await self._cache.change(guild_id, store)

    def check(self, before: GuildSettings, after: GuildSettings) -> None:
        """Raise AboveLimit or BotError if a guild with the settings `before` may not have those of `after`."""
        check_change(self._settings, before, after)

    async def _stored(self, guild_id: int) -> GuildSettings:
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.guild_settings(session, key=DialogKey(guild_id, 0))
