"""/config, for managers of a guild: how its conversations work, and where and for whom the bot answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import discord
from discord import app_commands
from discord.app_commands import Range

from bot.cogs.config.changes import RESETS, Setting, add_channel, change_role, clear_roles, given, remove_channel
from bot.cogs.config.chat_channel import ChatChannel
from bot.cogs.config.model_choice import choose_model
from bot.cogs.config.model_text import suggested_models
from bot.cogs.config.panel_store import GuildPanelStore
from bot.cogs.config.scopes import CHOICES, SCOPE_CHANGED, scope_named, scope_note, set_channel_scope
from bot.cogs.config.storing import store_change
from bot.cogs.config.text import MEMORY_OFF, MEMORY_ON, settings_text
from bot.cogs.config.transfer import SettingsTransfer
from bot.cogs.settings_panel.guild_entries import seconds_in
from bot.cogs.settings_panel.languages import LANGUAGES, language_named
from bot.cogs.settings_panel.presses import Presses
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.command_visibility import BY_GUILDS, IN_GUILDS, MANAGE_GUILD
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import BotError
from bot.guilds.settings.settings_cache import Change
from bot.i18n.language import gettext as _
from bot.settings.listed_models import MAX_NAME_CHARS


class Config(FeatureCog):
    """The settings of a guild. Discord hides these commands from members without Manage Server by default."""

    def __init__(self, context: CommandContext) -> None:
        super().__init__(context)
        self._presses = Presses(GuildPanelStore(context))
        self._transfer = SettingsTransfer(context)

    config = app_commands.Group(
        name="config",
        description="What this guild decides (for members with Manage Server)",
        default_permissions=MANAGE_GUILD,
        guild_only=True,
        allowed_contexts=IN_GUILDS,
        allowed_installs=BY_GUILDS,
    )

    @config.command(name="show", description="Show what this guild chose, and what applies where it did not.")
    async def show(self, interaction: Interaction) -> None:
        """/config show."""
        if not await defer(interaction, ephemeral=True):
            return
        guild_settings = await self.context.guild_settings.read(interaction.guild_id or 0)
        await self.context.respond(interaction, settings_text(guild_settings, self.context.settings))

    @config.command(name="panel", description="See all settings with what applies, and change them with menus.")
    async def panel(self, interaction: Interaction) -> None:
        """/config panel."""
        if await defer(interaction, ephemeral=True):
            view = await self._presses.first(interaction)
            await interaction.edit_original_response(view=view, allowed_mentions=NO_MENTIONS)

    @config.command(name="export", description="Get the settings of this guild as a file.")
    async def export(self, interaction: Interaction) -> None:
        """/config export."""
        await self._transfer.export(interaction)

    @config.command(name="import", description="Take settings from a file. I show what would change, and ask.")
    @app_commands.describe(file="A file that /config export has made")
    async def import_file(self, interaction: Interaction, file: discord.Attachment) -> None:
        """/config import."""
        await self._transfer.begin(interaction, file)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The components of the panel, and the buttons below an import."""
        return {Action.CONFIG.value: self._pressed}

    async def _pressed(self, interaction: Interaction, argument: str) -> None:
        word, _sep, rest = argument.partition(":")
        if word == "import":
            await self._transfer.pressed(interaction, rest)
        else:
            await self._presses.pressed(interaction, argument)

    # The ranges are what the database can hold; the operator's own limits are checked when a value is stored.
    @config.command(name="set", description="Choose one or more settings for this guild.")
    @app_commands.describe(
        max_chat_logs="How many exchanges of a conversation I keep in mind",
        max_reply_tokens="The longest answer, in tokens (four of them are about three words)",
        retention_days="How many days a conversation is kept after its end",
        scope="Who shares a conversation with me, and where",
        daily_messages="How many messages a member may send me in one day (UTC)",
        daily_tokens="How many tokens a member may use in one day (UTC), questions and answers together",
        idle_time="How long a conversation rests before it ends, such as 36h or 7d",
        streaming="Whether answers are shown while I write them",
        files="Whether I read files and pictures that come with messages",
        language="The language of what I say in public",
    )
    @app_commands.choices(scope=CHOICES, language=LANGUAGES)
    async def set_settings(
        self,
        interaction: Interaction,
        max_chat_logs: Range[int, 0, 1000] | None = None,
        max_reply_tokens: Range[int, 1, 1_000_000] | None = None,
        retention_days: Range[int, 0, 36_525] | None = None,
        scope: str | None = None,
        daily_messages: Range[int, 0, 1_000_000] | None = None,
        daily_tokens: Range[int, 0, 1_000_000_000] | None = None,
        idle_time: Range[str, 1, 20] | None = None,
        streaming: bool | None = None,
        files: bool | None = None,
        language: str | None = None,
    ) -> None:
        """/config set."""
        dialog_scope = scope_named(scope)
        chosen = given(
            max_chat_logs=max_chat_logs,
            max_reply_tokens=max_reply_tokens,
            retention_days=retention_days,
            dialog_scope=dialog_scope,
            daily_turns=daily_messages,
            daily_tokens=daily_tokens,
            session_ttl=None if idle_time is None else timedelta(seconds=seconds_in(idle_time)),
            streaming=streaming,
            files=files,
        )
        if language is not None:
            chosen["locale"] = language_named(language)  # None: the automatic one
        if not chosen:
            raise BotError(_("Please choose at least one setting. `/config show` lists them."))
        note = scope_note(dialog_scope) if dialog_scope else ""
        await self._change(interaction, lambda old: replace(old, **chosen), note)

    @config.command(name="model", description="Choose the model that answers here, or see which one does.")
    @app_commands.describe(model="One of those that the owner of this bot offers; left out, I show them")
    async def model(self, interaction: Interaction, model: Range[str, 1, MAX_NAME_CHARS] | None = None) -> None:
        """/config model."""
        await choose_model(self.context, interaction, model)

    @model.autocomplete("model")
    async def _suggest_models(self, interaction: Interaction, typed: str) -> list[app_commands.Choice[str]]:
        return suggested_models(self.context.settings, typed)

    @config.command(name="reset", description="Go back to what applies without a choice of this guild.")
    @app_commands.describe(setting="Which setting")
    async def reset(self, interaction: Interaction, setting: Setting) -> None:
        """/config reset."""
        await self._change(
            interaction, RESETS[setting], _(SCOPE_CHANGED) if setting in ("scope", "channel_scopes") else ""
        )

    channels = app_commands.Group(
        name="channels", description="In which channels I answer (with none listed, in all), and how", parent=config
    )

    @channels.command(name="add", description="Let me answer in this channel or thread, and in its threads.")
    @app_commands.describe(channel="The channel or thread")
    async def add_channel(self, interaction: Interaction, channel: ChatChannel) -> None:
        """/config channels add."""
        await self._change(interaction, add_channel(channel.id))

    @channels.command(name="remove", description="Take a channel or thread off the list.")
    @app_commands.describe(channel="The channel or thread")
    async def remove_channel(self, interaction: Interaction, channel: ChatChannel) -> None:
        """/config channels remove."""
        await self._change(interaction, remove_channel(channel.id))

    @channels.command(name="clear", description="Empty the list: I answer in all channels.")
    async def clear_channels(self, interaction: Interaction) -> None:
        """/config channels clear."""
        await self._change(interaction, RESETS["channels"])

    @channels.command(name="scope", description="Choose who shares a conversation in one channel, or take that back.")
    @app_commands.describe(
        channel="The channel or thread", scope="Who shares a conversation there (left out: what the guild chose)"
    )
    @app_commands.choices(scope=CHOICES)
    async def set_channel_scope(self, interaction: Interaction, channel: ChatChannel, scope: str | None = None) -> None:
        """/config channels scope."""
        chosen = scope_named(scope)
        note = scope_note(chosen) if chosen else _(SCOPE_CHANGED)
        await self._change(interaction, set_channel_scope(channel.id, chosen), note)

    roles = app_commands.Group(
        name="roles", description="Who may talk to me; with no role listed, everybody", parent=config
    )

    @roles.command(name="add", description="Let members with this role talk to me.")
    @app_commands.describe(role="The role")
    async def add_role(self, interaction: Interaction, role: discord.Role) -> None:
        """/config roles add."""
        await self._change(interaction, change_role(role.id, lambda old: replace(old, allowed=True)))

    @roles.command(name="remove", description="Take a role off the list of those who may talk to me.")
    @app_commands.describe(role="The role")
    async def remove_role(self, interaction: Interaction, role: discord.Role) -> None:
        """/config roles remove."""
        await self._change(interaction, change_role(role.id, lambda old: replace(old, allowed=False)))

    @roles.command(name="quota", description="Give a role its own number of messages a day.")
    @app_commands.describe(
        role="The role", daily_messages="How many a day (left out: the guild's number applies again)"
    )
    async def set_quota(
        self, interaction: Interaction, role: discord.Role, daily_messages: Range[int, 0, 1_000_000] | None = None
    ) -> None:
        """/config roles quota."""
        await self._change(interaction, change_role(role.id, lambda old: replace(old, daily_turns=daily_messages)))

    @roles.command(name="clear", description="Empty the list: everybody may talk to me. Quotas stay.")
    async def clear_roles(self, interaction: Interaction) -> None:
        """/config roles clear."""
        await self._change(interaction, clear_roles)

    memory = app_commands.Group(
        name="memory",
        description="Whether members may have me take notes about them",
        parent=config,
    )

    @memory.command(
        name="on",
        description="Let members have me take notes about them (/memory on), and summarise shared conversations.",
    )
    async def memory_on(self, interaction: Interaction) -> None:
        """/config memory on."""
        await self._change(interaction, lambda old: replace(old, memory=True), _(MEMORY_ON))

    @memory.command(
        name="off", description="Take and use no notes about members. Those that I have stay until members forget them."
    )
    async def memory_off(self, interaction: Interaction) -> None:
        """/config memory off."""
        await self._change(interaction, lambda old: replace(old, memory=False), _(MEMORY_OFF))

    async def _change(self, interaction: Interaction, change: Change, note: str = "") -> None:
        await store_change(self.context, interaction, change, note)
