"""The settings of each guild: read with every message, changed rarely, and within the operator's limits.

Settings are cached, so that an interaction can be deferred without waiting for the database. Another process on
the same database sees a change within `FRESH` seconds. Knows no Discord: who may change something is decided by the
front-ends.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from bot.errors import AboveLimit, BotError, Hint
from bot.guilds.settings.limits import limits_above, limits_for
from bot.i18n.language import gettext as _
from bot.keyed_locks import KeyedLocks
from bot.safety.words import MAX_WORDS
from bot.settings import Settings
from bot.storage import translate_database_errors
from bot.text import duration_text
from models import queries
from models.database import Database
from models.types import DIRECT_MESSAGES, DialogKey, GuildSettings, ReplyLimits

FRESH = 30.0
"""Seconds for which cached settings are used."""
MAX_LISTED = 100
"""Channels, and roles, on the lists of one guild."""
_MAX_CACHED_GUILDS = 10_000
_LIMITED = ("max_chat_logs", "max_reply_tokens", "retention_days")
"""For these, the operator's setting of the same name is the guild's default and maximum."""
SHORTEST_IDLE_TIME = timedelta(minutes=10)
"""The shortest time after which a guild may have idle conversations end; the longest is the operator's."""

Change = Callable[[GuildSettings], GuildSettings]


class GuildSettingsCache:
    """The settings of every guild in one database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._cached: OrderedDict[int, tuple[float, GuildSettings]] = OrderedDict()
        self._reading: dict[int, asyncio.Task[GuildSettings]] = {}
        self._changes = 0
        self._changing: KeyedLocks[int] = KeyedLocks()

    def known(self, guild_id: int) -> GuildSettings | None:
        """The cached settings of a guild, or None if the database has to be read. Never waits."""
        if guild_id == DIRECT_MESSAGES:
            return GuildSettings()
        cached_at, settings = self._cached.get(guild_id, (0.0, None))
        return settings if time.monotonic() - cached_at < FRESH else None

    async def get(self, guild_id: int) -> GuildSettings:
        """The settings of a guild, at most `FRESH` seconds old.

        Concurrent callers share one read and continue in the order of their calls, so that the messages of one dialog
        keep their order.
        """
        if (settings := self.known(guild_id)) is not None:
            return settings
        if (reading := self._reading.get(guild_id)) is None:
            reading = self._reading[guild_id] = asyncio.create_task(self.read(guild_id))
            reading.add_done_callback(lambda _: self._reading.pop(guild_id))
        return await asyncio.shield(reading)

    def limits_for(self, guild_id: int, guild: GuildSettings, role_ids: Collection[int]) -> ReplyLimits:
        """What applies to a member with these roles, and to the guild as a whole."""
        return limits_for(self._settings, guild_id, guild, role_ids)

    async def read(self, guild_id: int) -> GuildSettings:
        """The settings of a guild, from the database."""
        changes = self._changes
        with translate_database_errors():
            async with self._database.read() as session:
                found = await queries.guild_settings(session, key=DialogKey(guild_id, 0))
        if changes == self._changes:  # else it may be older than a change made meanwhile
            self._cache(guild_id, found)
        return found

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

        now = datetime.now(UTC)
        async with self._changing.hold(guild_id):  # so that the last one stored is the one cached
            try:
                with translate_database_errors():
                    after = await self._database.run(
                        lambda session: queries.change_guild_settings(
                            session,
                            key=DialogKey(guild_id, actor_id),
                            change=checked,
                            actor_id=actor_id,
                            now=now,
                            action=action,
                        )
                    )
            finally:
                self._changes += 1
                self._cached.pop(guild_id, None)
            self._cache(guild_id, after)
        return after

    def check(self, before: GuildSettings, after: GuildSettings) -> None:
        """Raise AboveLimit or BotError if these settings may not follow those: only what changes is checked."""
        for name in _LIMITED:
            value, limit = getattr(after, name), getattr(self._settings, name)
            # A value above a limit that was lowered since must not prevent the change of another value.
            if value is not None and value > limit and value != getattr(before, name):
                raise AboveLimit(name, limit, value)
        if after.session_ttl is not None and after.session_ttl != before.session_ttl:
            self._check_idle_time(after.session_ttl)
        for name, limit, value in limits_above(self._settings, before, after):
            raise AboveLimit(name, limit, value)
        if after.moderation and not before.moderation and self._settings.moderation_url is None:
            raise Hint(_("The owner of this bot offers no moderation."))
        if len(after.filter_words) > MAX_WORDS:
            raise BotError(_("There is room for {number} filtered words.").format(number=MAX_WORDS))
        lists = (after.channels, after.roles, after.channel_scopes, after.locked_channels)
        if max(map(len, lists)) > MAX_LISTED:
            text = _("There is room for {number} channels or {number} roles on each of these lists.")
            raise BotError(text.format(number=MAX_LISTED))

    def _check_idle_time(self, chosen: timedelta) -> None:
        longest = self._settings.session_ttl
        shortest = min(SHORTEST_IDLE_TIME, longest)
        if not shortest <= chosen <= longest:
            raise BotError(
                _("`idle_time` can be from {shortest} to {longest}. Nothing was changed.").format(
                    shortest=duration_text(shortest), longest=duration_text(longest)
                )
            )

    def _cache(self, guild_id: int, settings: GuildSettings) -> None:
        self._cached[guild_id] = (time.monotonic(), settings)
        self._cached.move_to_end(guild_id)
        if len(self._cached) > _MAX_CACHED_GUILDS:
            self._cached.popitem(last=False)
