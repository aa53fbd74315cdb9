"""What the cogs share: the services they call, whose conversation an interaction belongs to, and the private response.

Knows discord.py's interactions and the bot's services. Knows no command.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import discord

from bot.chat.service import ChatService
from bot.discord_app.delivery import InteractionSink
from bot.discord_app.streamed_reply import EditRate, StreamedReply
from bot.guilds.personas import PersonaService
from bot.guilds.privacy import PrivacyService
from bot.guilds.settings_cache import GuildSettingsCache
from bot.settings import Settings
from models.types import DIRECT_MESSAGES, DialogKey, DialogScope

Interaction = discord.Interaction[discord.Client]


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The services behind the commands, and the edit rate that all replies share."""

    chat: ChatService
    personas: PersonaService
    privacy: PrivacyService
    guild_settings: GuildSettingsCache
    settings: Settings
    edit_rate: EditRate = field(default_factory=EditRate)

    async def current_dialog_key(self, interaction: Interaction) -> DialogKey:
        """The key of the member's dialog here, by the guild's scope. May read the database: defer first."""
        guild_settings = await self.guild_settings.get(interaction.guild_id or DIRECT_MESSAGES)
        return dialog_key(interaction, guild_settings.dialog_scope)

    async def respond(self, interaction: Interaction, text: str) -> None:
        """Respond to an interaction that was deferred as ephemeral, in as many messages as the text takes."""
        await StreamedReply(InteractionSink(interaction, ephemeral=True), self.edit_rate).finish(text)


def dialog_key(interaction: Interaction, scope: DialogScope = "user") -> DialogKey:
    """Whose dialog an interaction belongs to, in ids only: names can change hands.

    By scope, a member has one dialog in the whole guild ("user"), one in each channel, threads included ("channel"), or
    one in each channel and one in each thread ("thread"). In direct messages there is one.
    """
    guild_id = interaction.guild_id or DIRECT_MESSAGES
    here, channel = channel_ids(interaction)
    by_scope = {"user": 0, "channel": channel, "thread": here}
    return DialogKey(guild_id, interaction.user.id, 0 if guild_id == DIRECT_MESSAGES else by_scope[scope])


def channel_ids(interaction: Interaction) -> tuple[int, int]:
    """The channel or thread of an interaction, and the thread's parent channel (the same id outside of threads)."""
    here = interaction.channel_id or 0
    if isinstance(interaction.channel, discord.Thread):
        return here, interaction.channel.parent_id
    return here, here


def role_ids(interaction: Interaction) -> frozenset[int]:
    """The member's roles in the guild of this interaction; none in direct messages."""
    if not isinstance(interaction.user, discord.Member):
        return frozenset()
    # `Member.roles` leaves out roles that are not cached, as during an outage. @everyone has the guild's id.
    return frozenset({*interaction.user._roles, interaction.user.guild.id})
