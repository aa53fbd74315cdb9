"""/config for those who manage a guild: what the guild decides about conversations, and where and for whom I answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import discord
from discord import Permissions, app_commands
from discord.app_commands import AppCommandChannel, AppCommandThread, Range, Transform

from bot.cogs.config_text import CHANGED_SCOPE, settings_text
from bot.discord_app.context import IN_GUILDS, INSTALLED, CommandContext, Interaction, answer
from bot.discord_app.delivery import acknowledge
from bot.errors import BotError
from bot.guilds.settings_cache import Change
from models.types import DialogScope, GuildSettings, RolePolicy


class _Talkable(app_commands.Transformer):
    """Where people can talk: categories are left out, and media channels, which Discord's schema does not list."""

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


Place = Transform[AppCommandChannel | AppCommandThread, _Talkable]
ChangeIds = Callable[[frozenset[int]], frozenset[int]]
ChangeRole = Callable[[RolePolicy], RolePolicy]
Setting = Literal[
    "everything",
    "max_chat_logs",
    "max_reply_tokens",
    "retention_days",
    "scope",
    "daily_messages",
    "daily_tokens",
    "channels",
    "roles",
]
_RESET: Mapping[Setting, Change] = {
    "everything": lambda old: GuildSettings(),
    "max_chat_logs": lambda old: replace(old, max_chat_logs=None),
    "max_reply_tokens": lambda old: replace(old, max_reply_tokens=None),
    "retention_days": lambda old: replace(old, retention_days=None),
    "scope": lambda old: replace(old, dialog_scope="user"),
    "daily_messages": lambda old: replace(old, daily_turns=None),
    "daily_tokens": lambda old: replace(old, daily_tokens=None),
    "channels": lambda old: replace(old, channels=frozenset()),
    "roles": lambda old: replace(old, roles=()),
}


def config_commands(parts: CommandContext) -> app_commands.Group:
    """/config, hidden from those without Manage Server unless the guild decides otherwise; see also `_gate`."""
    group = ConfigCommands(parts)
    group.add_command(ChannelCommands(parts))
    group.add_command(RoleCommands(parts))
    group.default_permissions = Permissions(manage_guild=True)
    group.guild_only = True
    group.allowed_contexts = IN_GUILDS
    group.allowed_installs = INSTALLED
    return group


class ConfigCommands(app_commands.Group):
    def __init__(self, parts: CommandContext) -> None:
        super().__init__(name="config", description="What this guild decides (for members with Manage Server)")
        self._parts = parts

    @app_commands.command(name="show", description="Show what this guild chose, and what applies where it did not.")
    async def show(self, interaction: Interaction) -> None:
        if not await acknowledge(interaction, private=True):
            return
        chosen = await self._parts.guilds.read(interaction.guild_id or 0)
        await answer(self._parts, interaction, settings_text(chosen, self._parts.settings))

    # The ranges are what the database can hold; the operator's own limits are checked when it is stored.
    @app_commands.command(name="set", description="Choose one or more settings for this guild.")
    @app_commands.describe(
        max_chat_logs="How many exchanges of a conversation I keep in mind",
        max_reply_tokens="The longest answer, in tokens (four of them are about three words)",
        retention_days="How many days a conversation is kept after its end",
        scope="One conversation a member in the whole guild, in each channel, or also in each thread",
        daily_messages="How many messages a member may send me in one day (UTC)",
        daily_tokens="How many tokens a member may use in one day (UTC), questions and answers together",
    )
    async def set_settings(
        self,
        interaction: Interaction,
        max_chat_logs: Range[int, 0, 1000] | None = None,
        max_reply_tokens: Range[int, 1, 1_000_000] | None = None,
        retention_days: Range[int, 0, 36_525] | None = None,
        scope: DialogScope | None = None,
        daily_messages: Range[int, 0, 1_000_000] | None = None,
        daily_tokens: Range[int, 0, 1_000_000_000] | None = None,
    ) -> None:
        given = (max_chat_logs, max_reply_tokens, retention_days, scope, daily_messages, daily_tokens)
        if all(value is None for value in given):
            raise BotError("Please choose at least one setting. `/config show` lists them.")

        def changed(old: GuildSettings) -> GuildSettings:
            return replace(
                old,
                max_chat_logs=old.max_chat_logs if max_chat_logs is None else max_chat_logs,
                max_reply_tokens=old.max_reply_tokens if max_reply_tokens is None else max_reply_tokens,
                retention_days=old.retention_days if retention_days is None else retention_days,
                dialog_scope=scope or old.dialog_scope,
                daily_turns=old.daily_turns if daily_messages is None else daily_messages,
                daily_tokens=old.daily_tokens if daily_tokens is None else daily_tokens,
            )

        await _change(self._parts, interaction, changed, CHANGED_SCOPE if scope else "")

    @app_commands.command(name="reset", description="Go back to what applies without a choice of this guild.")
    @app_commands.describe(setting="Which setting")
    async def reset(self, interaction: Interaction, setting: Setting) -> None:
        await _change(self._parts, interaction, _RESET[setting], CHANGED_SCOPE if setting == "scope" else "")


class ChannelCommands(app_commands.Group):
    """The channels that the bot answers in."""

    def __init__(self, parts: CommandContext) -> None:
        super().__init__(name="channels", description="In which channels I answer; with none listed, in all")
        self._parts = parts

    @app_commands.command(name="add", description="Let me answer in this channel or thread, and in its threads.")
    @app_commands.describe(channel="The channel or thread")
    async def add(self, interaction: Interaction, channel: Place) -> None:
        await self._set(interaction, lambda before: before | {channel.id})

    @app_commands.command(name="remove", description="Take a channel or thread off the list.")
    @app_commands.describe(channel="The channel or thread")
    async def remove(self, interaction: Interaction, channel: Place) -> None:
        await self._set(interaction, lambda before: before - {channel.id})

    @app_commands.command(name="clear", description="Empty the list: I answer in all channels.")
    async def clear(self, interaction: Interaction) -> None:
        await self._set(interaction, lambda before: frozenset())

    async def _set(self, interaction: Interaction, change: ChangeIds) -> None:
        await _change(self._parts, interaction, lambda old: replace(old, channels=change(old.channels)))


class RoleCommands(app_commands.Group):
    """The roles that may chat, and what each may have in a day."""

    def __init__(self, parts: CommandContext) -> None:
        super().__init__(name="roles", description="Who may talk to me; with no role listed, everybody")
        self._parts = parts

    @app_commands.command(name="add", description="Let members with this role talk to me.")
    @app_commands.describe(role="The role")
    async def add(self, interaction: Interaction, role: discord.Role) -> None:
        await self._set(interaction, role.id, lambda old: replace(old, allowed=True))

    @app_commands.command(name="remove", description="Take a role off the list of those who may talk to me.")
    @app_commands.describe(role="The role")
    async def remove(self, interaction: Interaction, role: discord.Role) -> None:
        await self._set(interaction, role.id, lambda old: replace(old, allowed=False))

    @app_commands.command(name="quota", description="Give a role its own number of messages a day.")
    @app_commands.describe(
        role="The role", daily_messages="How many a day (left out: the guild's number applies again)"
    )
    async def quota(
        self, interaction: Interaction, role: discord.Role, daily_messages: Range[int, 0, 1_000_000] | None = None
    ) -> None:
        await self._set(interaction, role.id, lambda old: replace(old, daily_turns=daily_messages))

    @app_commands.command(name="clear", description="Empty the list: everybody may talk to me. Quotas stay.")
    async def clear(self, interaction: Interaction) -> None:
        def cleared(before: GuildSettings) -> GuildSettings:
            return _with_roles(before, {role.role_id: replace(role, allowed=False) for role in before.roles})

        await _change(self._parts, interaction, cleared)

    async def _set(self, interaction: Interaction, role_id: int, change: ChangeRole) -> None:
        def changed(before: GuildSettings) -> GuildSettings:
            roles = {role.role_id: role for role in before.roles}
            return _with_roles(before, {**roles, role_id: change(roles.get(role_id, RolePolicy(role_id)))})

        await _change(self._parts, interaction, changed)


async def _change(parts: CommandContext, interaction: Interaction, change: Change, note: str = "") -> None:
    if not await acknowledge(interaction, private=True):
        return
    after = await parts.guilds.change(interaction.guild_id or 0, change, actor_id=interaction.user.id)
    said = " ".join(filter(None, ("Saved.", note)))
    await answer(parts, interaction, f"{said}\n\n{settings_text(after, parts.settings)}")


def _with_roles(before: GuildSettings, roles: Mapping[int, RolePolicy]) -> GuildSettings:
    """Sorted as the database gives them, and without roles of which nothing is said any more."""
    said = (role for _, role in sorted(roles.items()) if role.allowed or role.daily_turns is not None)
    return replace(before, roles=tuple(said))
