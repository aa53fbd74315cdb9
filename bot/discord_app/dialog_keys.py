"""Whose dialog a caller speaks in here: by the guild's choice, and by the thread if it was started for a conversation.

Knows callers and the cached settings; knows no object of discord.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.discord_app.caller import Caller, dialog_key, dialog_scope
from bot.guilds.bound_threads import BoundThreads
from bot.guilds.settings.settings_cache import GuildSettingsCache
from models.types import DialogKey


@dataclass(frozen=True, slots=True)
class DialogKeys:
    """Finds the key of the dialog for each caller."""

    guild_settings: GuildSettingsCache
    bound_threads: BoundThreads

    async def key_of(self, caller: Caller, *, private: bool = False) -> DialogKey:
        """The key of the caller's dialog. May read the database: defer first. Raises DatabaseUnavailable.

        `private`: only the caller sees the reply, so it must not become part of what others share.
        """
        settings = await self.guild_settings.get(caller.guild_id)
        bound = caller.in_thread and await self.bound_threads.get(caller.guild_id, caller.channel_id) is not None
        return dialog_key(caller, dialog_scope(caller, settings, bound=bound), private=private)
