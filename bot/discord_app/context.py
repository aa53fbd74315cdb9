"""What every cog is built from, and the few sentences they share. Private to the cogs and `bot.discord_app.client`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import discord
from discord import app_commands

from bot.chat.service import ChatService
from bot.discord_app.delivery import InteractionSink
from bot.discord_app.streamed_reply import EditRate, StreamedReply
from bot.guilds.personas import PersonaService
from bot.guilds.privacy import PrivacyService
from bot.guilds.settings_cache import GuildSettingsCache
from bot.settings import Settings
from models.types import DIRECT_MESSAGES, DialogKey, DialogScope

ANYWHERE = app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=False)
IN_GUILDS = app_commands.AppCommandContext(guild=True, dm_channel=False, private_channel=False)
# Only where a guild's managers invited the bot: a member who brings it along for himself cannot agree for the guild.
INSTALLED = app_commands.AppInstallationType(guild=True, user=False)

Interaction = discord.Interaction[discord.Client]
Handler = Callable[[Interaction, str], Awaitable[None]]
"""Serves a button or a modal; the text is what follows the colon in its custom id."""


@dataclass(frozen=True, slots=True)
class CommandContext:
    chat: ChatService
    personas: PersonaService
    privacy: PrivacyService
    guilds: GuildSettingsCache
    settings: Settings
    edit_rate: EditRate = field(default_factory=EditRate)
    running_replies: dict[int, DialogKey] = field(default_factory=dict)
    """The replies being written, by the interaction that asked."""


def key_of(interaction: Interaction, scope: DialogScope = "user") -> DialogKey:
    """Whose conversation an interaction belongs to. Ids only: names change hands.

    A member has one conversation in the whole guild, one in each channel (threads count as their channel), or one in
    each channel and one in each thread, whichever the guild chose. In direct messages there is one.
    """
    guild_id = interaction.guild_id or DIRECT_MESSAGES
    here, channel = place_of(interaction)
    by_scope = {"user": 0, "channel": channel, "thread": here}
    return DialogKey(guild_id, interaction.user.id, 0 if guild_id == DIRECT_MESSAGES else by_scope[scope])


async def conversation(parts: CommandContext, interaction: Interaction) -> DialogKey:
    """The conversation that is meant where this was asked. May read the database: acknowledge first."""
    chosen = await parts.guilds.get(interaction.guild_id or DIRECT_MESSAGES)
    return key_of(interaction, chosen.dialog_scope)


def place_of(interaction: Interaction) -> tuple[int, int]:
    """The channel or thread where this happens, and the channel that it is or belongs to."""
    here = interaction.channel_id or 0
    if isinstance(interaction.channel, discord.Thread):
        return here, interaction.channel.parent_id
    return here, here


def roles_of(interaction: Interaction) -> frozenset[int]:
    """The ids of the member's roles in this interaction's own guild; none outside of guilds."""
    if not isinstance(interaction.user, discord.Member):
        return frozenset()
    # `Member.roles` knows only roles in the cache, which is empty during an outage. @everyone has the guild's id.
    return frozenset({*interaction.user._roles, interaction.user.guild.id})


async def answer(parts: CommandContext, interaction: Interaction, text: str) -> None:
    """Answer an interaction that was acknowledged privately, in as many messages as it takes."""
    await StreamedReply(InteractionSink(interaction, private=True), parts.edit_rate).finish(text)
