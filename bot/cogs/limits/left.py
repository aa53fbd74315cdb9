"""What a member, or all members of a guild, have left of their limits: for `/quota` and `/admin user`."""

from __future__ import annotations

from collections.abc import Collection

from bot.cogs.limits.text import Left
from bot.discord_app.context import CommandContext
from bot.guilds.usage import UsageReader
from models.types import DialogKey


class LeftReader:
    """Reads it: limits from the settings, the minute from this process, the day from the database."""

    def __init__(self, context: CommandContext, usage: UsageReader) -> None:
        self._context = context
        self._usage = usage

    async def of_member(self, key: DialogKey, role_ids: Collection[int]) -> Left:
        """Of the key's member, who has these roles."""
        guild = await self._context.guild_settings.get(key.guild_id)
        limits = self._context.guild_settings.limits_for(key.guild_id, guild, role_ids).member
        now = self._context.chat.limiter.left(key, limits, "member")
        return Left("member", limits, now, await self._usage.of_member(key))

    async def of_guild(self, key: DialogKey) -> Left:
        """Of all members of the key's guild together."""
        guild = await self._context.guild_settings.get(key.guild_id)
        limits = self._context.guild_settings.limits_for(key.guild_id, guild, ()).guild
        now = self._context.chat.limiter.left(key, limits, "guild")
        return Left("guild", limits, now, await self._usage.of_guild(key))
