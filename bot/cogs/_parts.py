"""What every cog is built from, and the few sentences they share. Private to the cogs and `bot.app`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import discord
from discord import app_commands

from bot.chat import ChatService
from bot.cogs._delivery import InteractionSurface
from bot.personas import PersonaService
from bot.privacy import PrivacyService
from bot.reply import Pace, StreamedReply
from bot.settings import Settings
from models.types import DIRECT_MESSAGES, DialogKey

ANYWHERE = app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=False)
IN_GUILDS = app_commands.AppCommandContext(guild=True, dm_channel=False, private_channel=False)
# Only where a guild's managers invited the bot: a member who brings it along for himself cannot agree for the guild.
INSTALLED = app_commands.AppInstallationType(guild=True, user=False)

Interaction = discord.Interaction[discord.Client]
Handler = Callable[[Interaction, str], Awaitable[None]]
"""Serves a button or a modal; the text is what follows the colon in its custom id."""


@dataclass(frozen=True, slots=True)
class Parts:
    chat: ChatService
    personas: PersonaService
    privacy: PrivacyService
    settings: Settings
    pace: Pace = field(default_factory=Pace)
    running: dict[int, DialogKey] = field(default_factory=dict)
    """The replies being written, by the interaction that asked."""


def key_of(interaction: Interaction) -> DialogKey:
    """Whose conversation an interaction belongs to. Ids only: names change hands."""
    return DialogKey(interaction.guild_id or DIRECT_MESSAGES, interaction.user.id)


async def answer(parts: Parts, interaction: Interaction, text: str) -> None:
    """Answer an interaction that was acknowledged privately, in as many messages as it takes."""
    await StreamedReply(InteractionSurface(interaction, private=True), parts.pace).finish(text)
