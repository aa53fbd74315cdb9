"""Which language a text is in: for a member that of their client, for a guild the one that it chose.

A member reads the language that they chose, else that of their client, which each interaction names; errors too, since
nobody else sees them. What all in a guild see is in the guild's language: its own choice, else the one that it gave
Discord. In direct messages it is the language in which the member used the bot last. Knows no texts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import structlog

from bot.errors import BotError
from bot.guilds.settings.settings_cache import GuildSettingsCache
from bot.i18n.language import supported
from models.types import DIRECT_MESSAGES, DialogKey, GuildSettings, Place

log = structlog.get_logger(__name__)

_MAX_KNOWN = 10_000


class Languages:
    """The languages of guilds, and of the members who used the bot last. One for the whole bot."""

    def __init__(
        self,
        guild_settings: GuildSettingsCache,
        own: Callable[[DialogKey], Awaitable[str | None]] | None = None,
        discords: Callable[[int], str | None] = lambda guild_id: None,
    ) -> None:
        """`own`: what a member chose, known soon and without raising anything; None if nothing.

        `discords`: the locale that a guild gave Discord; None where that is not known.
        """
        self.discords = discords
        self._guild_settings = guild_settings
        self._own = own
        self._of_members: OrderedDict[int, str] = OrderedDict()

    async def of_user(self, guild_id: int, user_id: int, locale: str) -> str:
        """The language of a member who uses the bot with this locale. It is remembered, in memory only."""
        language = supported(await self._chosen_by(guild_id, user_id) or locale)
        self._of_members[user_id] = language
        self._of_members.move_to_end(user_id)
        if len(self._of_members) > _MAX_KNOWN:
            self._of_members.popitem(last=False)
        return language

    async def of_member(self, guild_id: int, user_id: int) -> str:
        """The language in which this member used the bot last; if that is not known, what they chose, else English."""
        if (known := self._of_members.get(user_id)) is not None:
            return known
        return supported(await self._chosen_by(guild_id, user_id))

    def chosen(self, guild_id: int, settings: GuildSettings) -> str:
        """The language of a guild with these settings."""
        return supported(settings.locale or self.discords(guild_id))

    async def of_guild(self, guild_id: int) -> str:
        """The language of a guild. May read the database; while it is away, the one that the guild gave Discord."""
        try:
            settings = await self._guild_settings.get(guild_id)
        except BotError as error:
            log.info("the language of a guild is not known", guild=guild_id, reason=error.reason)
            settings = GuildSettings()
        return self.chosen(guild_id, settings)

    async def of_channel(self, guild_id: int, user_id: int) -> str:
        """The language of what this member and others see in a channel; `guild_id` is 0 in direct messages."""
        if guild_id == DIRECT_MESSAGES:
            return await self.of_member(guild_id, user_id)
        return await self.of_guild(guild_id)

    async def of_place(self, place: Place) -> str:
        """The language of a reply's own lines: of the asker, if they alone see it."""
        if place.ephemeral:
            return await self.of_member(place.guild_id, place.asker_id)
        return await self.of_channel(place.guild_id, place.asker_id)

    async def _chosen_by(self, guild_id: int, user_id: int) -> str | None:
        return None if self._own is None else await self._own(DialogKey(guild_id, user_id))
