"""What the cogs share: the services they call, whose conversation an interaction belongs to, and the private response.

Knows discord.py's interactions and the bot's services. Knows no command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import discord

from bot.chat.service import ChatService
from bot.discord_app.caller import caller_of
from bot.discord_app.delivery import InteractionSink
from bot.discord_app.dialog_keys import DialogKeys
from bot.discord_app.languages import Languages
from bot.discord_app.permissions.gate import PermissionGate
from bot.discord_app.replies.streamed_reply import EditRate, StreamedReply
from bot.guilds.administration.blocks import MemberBlocks
from bot.guilds.bound_threads import BoundThreads
from bot.guilds.personas import PersonaService
from bot.guilds.privacy import PrivacyService
from bot.guilds.settings.member_settings import MemberSettingsCache
from bot.guilds.settings.settings_cache import GuildSettingsCache
from bot.safety.content import ContentFilters
from bot.settings import Settings
from models.types import DialogKey

Interaction = discord.Interaction[discord.Client]


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The services behind the commands, and the edit rate that all replies share."""

    chat: ChatService
    personas: PersonaService
    privacy: PrivacyService
    guild_settings: GuildSettingsCache
    member_settings: MemberSettingsCache
    bound_threads: BoundThreads
    settings: Settings
    gate: PermissionGate
    languages: Languages
    blocks: MemberBlocks
    filters: ContentFilters
    responsible: Callable[[int], bool] = lambda guild_id: True
    """Whether this connection finishes what is left of a guild: a process may have several."""
    edit_rate: EditRate = field(default_factory=EditRate)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    """What is being served now; the bot waits for it when it stops."""

    def track(self, task: asyncio.Task[Any] | None) -> None:
        """Count a task among those that are waited for."""
        if task is not None:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def current_dialog_key(self, interaction: Interaction) -> DialogKey:
        """The key of the member's dialog here, by the guild's scope. May read the database: defer first."""
        return await DialogKeys(self.guild_settings, self.bound_threads).key_of(caller_of(interaction))

    async def respond(self, interaction: Interaction, text: str) -> None:
        """Respond to an interaction that was deferred as ephemeral, in as many messages as the text takes."""
        await StreamedReply(InteractionSink(interaction, ephemeral=True), self.edit_rate).finish(text)
