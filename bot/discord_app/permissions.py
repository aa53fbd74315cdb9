"""Who may do what: the one authorisation function, and the gate that every interaction passes.

Commands, buttons and modals are all checked here before they are deferred, so that a refusal is ephemeral. The gate
never waits: an interaction must be deferred within 3 s, and the database may be slower. It therefore applies a guild's
own rules only if they are cached, which they are while members use the bot there. If they are not, the command defers,
reads them and calls `authorise` again; a refusal then deletes the deferred response.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Collection

import discord
from discord import app_commands

from bot.discord_app.context import Interaction, channel_ids, role_ids
from bot.errors import BotError, ShuttingDown
from bot.guilds.settings_cache import GuildSettingsCache
from models.types import DIRECT_MESSAGES, GuildSettings

IN_GUILDS = app_commands.AppCommandContext(guild=True, dm_channel=False, private_channel=False)
MANAGE_GUILD = discord.Permissions(manage_guild=True)
_MAX_SEEN = 10_000  # interaction ids kept to recognise repeats


class Action(enum.Enum):
    """What a member wants to do. The value is the first word of the command or of the custom id."""

    CHAT = "chat"
    REGENERATE = "regenerate"
    STOP = "stop"
    RESET = "reset"
    HISTORY = "history"
    GUILD_PERSONA = "persona"
    OWN_PERSONA = "me"
    CONFIG = "config"
    PRIVACY = "privacy"
    HELP = "help"


_GUILD_ONLY = frozenset({Action.GUILD_PERSONA, Action.CONFIG})
_MANAGERS_ONLY = frozenset({Action.GUILD_PERSONA, Action.CONFIG})
_BY_GUILD_RULES = frozenset({Action.CHAT, Action.REGENERATE})  # a guild cannot bar members from their own data
_MAX_NAMED = 10  # channels or roles named in a refusal


class NotAllowed(BotError):
    """The member may not do this, or not here."""


def authorise(interaction: Interaction, action: Action, guild_settings: GuildSettings | None) -> None:
    """Raise NotAllowed unless this member may do this here. `guild_settings`: None if they are not known yet.

    Discord hides commands that a member may not use, but an admin may override that and a modified client ignores it.
    Permissions are those in the guild of this interaction; they never apply in another guild or in direct messages.
    """
    if action in _GUILD_ONLY and interaction.guild_id is None:
        raise NotAllowed("This works in a guild only, not in direct messages.")
    permissions = interaction.permissions
    if action in _MANAGERS_ONLY and not (permissions.manage_guild or permissions.administrator):
        raise NotAllowed("Only members with the Manage Server permission may do this.")
    if action in _BY_GUILD_RULES and guild_settings is not None:
        _check_channel(interaction, guild_settings)
        _check_roles(interaction, guild_settings)


def _check_channel(interaction: Interaction, guild_settings: GuildSettings) -> None:
    """A thread is allowed if it or its channel is listed."""
    if guild_settings.channels and not guild_settings.channels & set(channel_ids(interaction)):
        raise NotAllowed(f"I do not chat in this channel. Ask me in {_mentions('<#{}>', guild_settings.channels)}.")


def _check_roles(interaction: Interaction, guild_settings: GuildSettings) -> None:
    allowed = {role.role_id for role in guild_settings.roles if role.allowed}
    if allowed and not allowed & role_ids(interaction):
        raise NotAllowed(f"Here I chat only with members who have the role {_mentions('<@&{}>', allowed)}.")


def _mentions(pattern: str, ids: Collection[int]) -> str:
    named = [pattern.format(each) for each in sorted(ids)[:_MAX_NAMED]]
    more = len(ids) - len(named)
    return " or ".join(named) + (f" ({more} more)" if more else "")


class PermissionGate:
    """Admits each interaction once, if the member may do it and the bot is not shutting down."""

    def __init__(self, guild_settings: GuildSettingsCache) -> None:
        self.closed = False
        self._guild_settings = guild_settings
        self._seen: OrderedDict[int, None] = OrderedDict()

    def is_repeat(self, interaction: Interaction) -> bool:
        """Whether this interaction was seen before: a RESUME may replay one that was handled."""
        if interaction.id in self._seen:
            return True
        self._seen[interaction.id] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    def check(self, interaction: Interaction, action: Action) -> None:
        """Raise ShuttingDown once the gate is closed, and NotAllowed where `authorise` refuses.

        Replies may be stopped until the end: this process still writes some, and other processes write theirs.
        """
        if self.closed and action is not Action.STOP:
            raise ShuttingDown()
        authorise(interaction, action, self._guild_settings.known(interaction.guild_id or DIRECT_MESSAGES))
