"""/config export and import: a guild's settings as a file, and back after a look at what would change.

What would change hangs on a button, and the file on the message with that button: both outlive a restart. When it is
pressed, the file is read again, and nothing is changed if the settings are not those that were compared.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime

import discord
from discord.ui import Button, View

from bot.attachments.types import FileRefused
from bot.cogs.config.transfer_text import change_lines, left_out_lines, question_text
from bot.cogs.dialogs.answers import OldButton
from bot.cogs.settings_panel.entries import fingerprint
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer, defer_click
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise_opener
from bot.discord_app.replies.offered_files import offered_files
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import BotError, Hint
from bot.guilds.settings.settings_checks import offers_model
from bot.guilds.settings.settings_file.importing import Imported, imported
from bot.guilds.settings.settings_file.reading import read_file
from bot.guilds.settings.settings_file.schema import MAX_BYTES, Listed
from bot.guilds.settings.settings_file.writing import as_file
from bot.i18n.language import gettext as _
from models.types import GuildSettings

FILE_NAME = "guildllama-settings.json"


class SettingsTransfer:
    """The two commands, and the buttons below what an import would change."""

    def __init__(self, context: CommandContext) -> None:
        self._context = context

    async def export(self, interaction: Interaction) -> None:
        """Give the settings as a file."""
        if not await defer(interaction, ephemeral=True):
            return
        guild_id, guild = interaction.guild_id or 0, interaction.guild
        settings = await self._context.guild_settings.read(guild_id)

        def name_of(channel_or_role_id: int) -> str:
            found = guild and (guild.get_channel_or_thread(channel_or_role_id) or guild.get_role(channel_or_role_id))
            return found.name if found else ""

        data = as_file(
            settings,
            guild_id=guild_id,
            guild_name=guild.name if guild else "",
            name_of=name_of,
            at=datetime.now(UTC),
        )
        await interaction.edit_original_response(
            content=_("The settings of this guild. `/config import` takes them from such a file."),
            attachments=[discord.File(io.BytesIO(data), FILE_NAME)],
            allowed_mentions=NO_MENTIONS,
        )

    async def begin(self, interaction: Interaction, attachment: discord.Attachment) -> None:
        """Show what a file would change, and ask."""
        if not await defer(interaction, ephemeral=True):
            return
        data = await self._load(attachment)
        await self._ask(interaction, data, read_file(data))

    async def _ask(self, interaction: Interaction, data: bytes, file: Listed, *, note: str = "") -> None:
        old = await self._context.guild_settings.read(interaction.guild_id or 0)
        found = self._imported(interaction, file, old)
        self._context.guild_settings.check(old, found.settings)
        changes = change_lines(old, found.settings, self._context.settings)
        if not changes:
            text = _("Nothing would change: these are the settings of this guild already.")
            await self._say(interaction, "\n".join([text, *left_out_lines(found)]))
            return
        await interaction.edit_original_response(
            content=question_text(changes, found, note=note),
            view=_buttons(interaction.user.id, fingerprint(old)),
            attachments=[discord.File(io.BytesIO(data), FILE_NAME)],
            allowed_mentions=NO_MENTIONS,
        )

    async def pressed(self, interaction: Interaction, argument: str) -> None:
        """Apply the file, or leave it. `argument`: who asked, what was pressed, and which settings were compared."""
        opener, _sep, rest = argument.partition(":")
        what, _sep, seen = rest.partition(":")
        authorise_opener(caller_of(interaction), opener)
        if what not in ("apply", "cancel"):
            raise OldButton()
        if not await defer_click(interaction):
            return
        if what == "cancel":
            await self._say(interaction, _("I changed nothing."))
            return
        attachments = interaction.message.attachments if interaction.message else []
        if not attachments:
            raise OldButton()
        data = await self._load(attachments[0])
        file = read_file(data)

        def changed(old: GuildSettings) -> GuildSettings:
            if fingerprint(old) != seen:
                raise _ChangedMeanwhile()
            return self._imported(interaction, file, old).settings

        try:
            await self._context.guild_settings.change(
                interaction.guild_id or 0, changed, actor_id=interaction.user.id, action="config.import"
            )
        except _ChangedMeanwhile:
            note = _("⚠️ The settings were changed meanwhile, so I changed nothing. Please look again.")
            await self._ask(interaction, data, file, note=note)
            return
        self._context.personas.changed.set()
        await self._say(interaction, _("✅ Saved. `/config panel` shows the settings as they are now."))

    async def _load(self, attachment: discord.Attachment) -> bytes:
        if attachment.size > MAX_BYTES:
            raise Hint(_("This file is too large for settings."))
        [offer] = offered_files([attachment])
        try:
            return await self._context.chat.file_reader.load(offer)
        except FileRefused as refused:
            raise Hint(_(refused.reason_text)) from None

    def _imported(self, interaction: Interaction, file: Listed, old: GuildSettings) -> Imported:
        guild = interaction.guild
        if guild is None or guild.unavailable:
            raise BotError(_("I cannot see the channels of this guild at the moment. Please try again later."))
        scoped = {channel_id for channel_id, _scope in old.channel_scopes}
        known = old.channels | old.locked_channels | scoped  # threads that rest are not known to the bot

        return imported(
            file,
            old,
            channels=lambda each: each in known or guild.get_channel_or_thread(each) is not None,
            roles=lambda each: guild.get_role(each) is not None,
            models=lambda name: offers_model(self._context.settings, name),
        )

    async def _say(self, interaction: Interaction, text: str) -> None:
        await interaction.edit_original_response(content=text, view=None, attachments=[], allowed_mentions=NO_MENTIONS)


class _ChangedMeanwhile(Exception):
    """The settings are not those that were compared with the file."""


def _buttons(opener_id: int, seen: str) -> View:
    word = f"{Action.CONFIG.value}:import:{opener_id}"
    view = View(timeout=None)
    view.add_item(Button(label=_("Apply"), style=discord.ButtonStyle.success, custom_id=f"{word}:apply:{seen}"))
    view.add_item(Button(label=_("Leave it"), custom_id=f"{word}:cancel:{seen}"))
    view.stop()  # discord.py need not remember it: the bot serves buttons by their custom ids
    return view
