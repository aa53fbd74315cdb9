"""An option of a command for a channel or thread that members can chat in."""

from __future__ import annotations

import discord
from discord import app_commands
from discord.app_commands import AppCommandChannel, AppCommandThread, Transform

from bot.discord_app.context import Interaction


class _ChatChannel(app_commands.Transformer):
    """No category, and no media channel (unknown to Discord's schema)."""

    @property
    def type(self) -> discord.AppCommandOptionType:
        return discord.AppCommandOptionType.channel

    @property
    def channel_types(self) -> list[discord.ChannelType]:
        kinds = discord.ChannelType
        threads = [kinds.news_thread, kinds.public_thread, kinds.private_thread]
        return [kinds.text, kinds.news, kinds.voice, kinds.stage_voice, kinds.forum, *threads]

    async def transform(self, interaction: Interaction, value: object, /) -> AppCommandChannel | AppCommandThread:
        if not isinstance(value, AppCommandChannel | AppCommandThread):
            raise app_commands.TransformerError(value, self.type, self)
        return value


ChatChannel = Transform[AppCommandChannel | AppCommandThread, _ChatChannel]
