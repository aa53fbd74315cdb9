"""/me settings: what a member decides for themselves in this guild, or in direct messages. For everyone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from discord import app_commands
from discord.app_commands import Range

from bot.cogs.settings_panel.draw import Panel, draw
from bot.cogs.settings_panel.entries import Number
from bot.cogs.settings_panel.languages import LANGUAGES, language_named
from bot.cogs.settings_panel.own_entries import OwnChoice, own_entries, own_source
from bot.cogs.settings_panel.presses import Presses, within
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.i18n.language import gettext as _
from models.types import DIRECT_MESSAGES, DialogKey, MemberSettings

OwnSetting = Literal["everything", "max_chat_logs", "retention_days", "private", "language"]


class OwnPanelStore:
    """What a member chose, for their panel."""

    def __init__(self, context: CommandContext) -> None:
        self._context = context

    def panel(self, interaction: Interaction, settings: OwnChoice) -> Panel[OwnChoice]:
        """The panel of these settings."""
        here = caller_of(interaction).guild_id != DIRECT_MESSAGES
        title = _("Your settings in this guild") if here else _("Your settings in direct messages")
        return Panel(
            word=Action.OWN_SETTINGS.value,
            title=title,
            pages={"own": title},
            entries=own_entries(settings, self._context.settings),
            settings=settings,
            source=own_source(),
            opener_id=interaction.user.id,
        )

    async def read(self, interaction: Interaction) -> OwnChoice:
        """What the member chose in the place where the panel is used."""
        key = _key(interaction)
        return OwnChoice(
            await self._context.member_settings.read(key), await self._context.guild_settings.get(key.guild_id)
        )

    async def change(self, interaction: Interaction, change: Callable[[OwnChoice], OwnChoice]) -> OwnChoice:
        """Change it. Not in the audit log: it is nobody else's matter."""
        key = _key(interaction)
        guild = await self._context.guild_settings.get(key.guild_id)
        after = await self._context.member_settings.change(key, lambda old: change(OwnChoice(old, guild)).own)
        return OwnChoice(after, guild)


class OwnSettings(FeatureCog):
    """The command and the components of its panel."""

    def __init__(self, context: CommandContext) -> None:
        super().__init__(context)
        self._store = OwnPanelStore(context)
        self._presses = Presses(self._store)

    def add_to(self, me: app_commands.Group) -> None:
        """Add the command to /me."""

        @app_commands.command(name="settings", description="Show and change what you decide for yourself here.")
        @app_commands.describe(
            max_chat_logs="How many exchanges of our conversation I keep in mind",
            retention_days="How many days a conversation of yours is kept after its end",
            private="Whether only you see my answers to commands, unless a command says otherwise",
            language="The language of what I say to you alone",
            reset="What to take back",
        )
        @app_commands.choices(language=LANGUAGES)
        async def settings(
            interaction: Interaction,
            max_chat_logs: Range[int, 0, 1000] | None = None,
            retention_days: Range[int, 0, 36_525] | None = None,
            private: bool | None = None,
            language: str | None = None,
            reset: OwnSetting | None = None,
        ) -> None:
            given: dict[str, Any] = {
                "max_chat_logs": max_chat_logs,
                "retention_days": retention_days,
                "private": private,
                "language": language,
            }
            await self._settings(interaction, {name: each for name, each in given.items() if each is not None}, reset)

        me.add_command(settings)

    async def _settings(self, interaction: Interaction, given: Mapping[str, Any], reset: OwnSetting | None) -> None:
        if not await defer(interaction, ephemeral=True):
            return
        if "language" in given:
            language_named(given["language"])
        note = ""
        if given or reset:
            after = await self._store.change(interaction, lambda old: self._changed(old, given, reset))
            note = _("✅ Saved.")
        else:
            after = await self._store.read(interaction)
        panel = self._store.panel(interaction, after)
        await interaction.edit_original_response(view=draw(panel, "own", note=note), allowed_mentions=NO_MENTIONS)

    def _changed(self, old: OwnChoice, given: Mapping[str, Any], reset: OwnSetting | None) -> OwnChoice:
        """What was given is set after what is to be taken back."""
        if reset == "everything":
            old = OwnChoice(_without_choices(old.own), old.guild)
        for entry in own_entries(old, self.context.settings):
            if entry.name == reset:
                old = entry.reset(old)
            if entry.name in given:
                if isinstance(entry.control, Number):
                    within(entry.control, given[entry.name])
                old = entry.write(old, given[entry.name])
        return old

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The components of the panel."""
        return {Action.OWN_SETTINGS.value: self._presses.pressed}


def _key(interaction: Interaction) -> DialogKey:
    caller = caller_of(interaction)
    return DialogKey(caller.guild_id, caller.user_id)


def _without_choices(own: MemberSettings) -> MemberSettings:
    """Nothing chosen; what is no setting of this command stays."""
    return MemberSettings(memory=own.memory)
