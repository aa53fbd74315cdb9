"""/config export and import: a guild's settings as a file, and back after a look at what would change.

What would change hangs on a button, and the file on the message with that button: both outlive a restart. When it is
pressed, the file is read again, and nothing is changed if the settings are not those that were compared.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime

import discord
from discord.ext import commands
from discord.ui import Button, View

from bot.attachments.types import FileRefused
from bot.cogs.dialogs.answers import OldButton
from bot.cogs.settings_panel.entries import fingerprint, shown_value
from bot.cogs.settings_panel.guild_entries import guild_entries
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer, defer_click
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise_opener
from bot.discord_app.replies.offered_files import offered_files
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import BotError, Hint
from bot.guilds.settings.settings_file.importing import Imported, imported
from bot.guilds.settings.settings_file.reading import read_file
from bot.guilds.settings.settings_file.schema import MAX_BYTES, Listed
from bot.guilds.settings.settings_file.writing import as_file
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import GuildSettings

FILE_NAME = "guildllama-settings.json"
_MAX_CHARS, _MAX_SKIPPED = 1_700, 10


class SettingsTransfer:
    """The two commands, and the buttons below what an import would change."""

    def __init__(self, bot: commands.Bot, context: CommandContext) -> None:
        self._bot = bot
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
        changes = self._change_lines(old, found.settings)
        left_out = "\n".join(_left_out(found))
        if not changes:
            text = _("Nothing would change: these are the settings of this guild already.")
            await interaction.edit_original_response(
                content=f"{text}\n{left_out}".strip(), view=None, attachments=[], allowed_mentions=NO_MENTIONS
            )
            return
        head = ngettext(
            "This file would change {number} setting:", "This file would change {number} settings:", len(changes)
        ).format(number=len(changes))
        text = "\n".join(filter(None, (note, head, *_fitting(changes), left_out)))
        await interaction.edit_original_response(
            content=text,
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
            raise Hint(refused.reason_text) from None

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
        )

    def _change_lines(self, old: GuildSettings, new: GuildSettings) -> list[str]:
        before = guild_entries(old, self._context.settings)
        after = guild_entries(new, self._context.settings)
        return [
            f"- {was.title}: {_before_and_after(shown_value(was, old), shown_value(now, new))}"
            for was, now in zip(before, after, strict=True)
            if was.read(old) != now.read(new)
        ]

    async def _say(self, interaction: Interaction, text: str) -> None:
        await interaction.edit_original_response(content=text, view=None, attachments=[], allowed_mentions=NO_MENTIONS)


def _before_and_after(before: str, after: str) -> str:
    """Both values; of filtered words only the number is said, which may be the same of others."""
    if before == after:
        return _("{value}, but others than now").format(value=after)
    return f"{before} → {after}"


class _ChangedMeanwhile(Exception):
    """The settings are not those that were compared with the file."""


def _left_out(found: Imported) -> list[str]:
    lines = []
    if found.skipped:
        more = len(found.skipped) - _MAX_SKIPPED
        named = ", ".join(found.skipped[:_MAX_SKIPPED]) + (f" (+{more})" if more > 0 else "")
        lines.append("-# " + _("Not in this guild, so left out: {names}.").format(names=named))
    if found.kept:
        named = ", ".join(f"`{each}`" for each in found.kept)
        lines.append("-# " + _("Left as it is, since nothing of it exists here: {names}.").format(names=named))
    return lines


def _fitting(lines: Sequence[str]) -> list[str]:
    """As many lines as a message has room for, and how many more there are."""
    shown: list[str] = []
    for line in lines:
        if sum(map(len, shown)) + len(line) > _MAX_CHARS - 600 and shown:
            more = len(lines) - len(shown)
            return [*shown, "- " + ngettext("and {number} more", "and {number} more", more).format(number=more)]
        shown.append(line[:900])
    return shown


def _buttons(opener_id: int, seen: str) -> View:
    word = f"{Action.CONFIG.value}:import:{opener_id}"
    view = View(timeout=None)
    view.add_item(Button(label=_("Apply"), style=discord.ButtonStyle.success, custom_id=f"{word}:apply:{seen}"))
    view.add_item(Button(label=_("Leave it"), custom_id=f"{word}:cancel:{seen}"))
    view.stop()  # discord.py need not remember it: the bot serves buttons by their custom ids
    return view
