"""/admin reports: what members reported, read, closed and deleted; and which channel is told of it."""

from __future__ import annotations

import io
from collections.abc import Mapping

import discord
from discord.app_commands import AppCommandChannel, AppCommandThread

from bot.chat.reports import Reports
from bot.cogs.admin.part import AdminPart, begin, guild_key, one_page
from bot.cogs.admin.report_text import (
    PAGE,
    details_buttons,
    details_text,
    list_buttons,
    list_text,
    report_file,
)
from bot.cogs.dialogs.answers import OldButton, chosen_number, number
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.discord_app.splitting.code_fences import utf16_length
from bot.errors import Hint
from bot.i18n.language import gettext as _
from models.types import ReportDetails

_MAX_CHARS = 1_990  # UTF-16 units of a message


class ReportList(AdminPart):
    """The admins' side of /report."""

    def __init__(self, context: CommandContext, api: MessageApi, reports: Reports) -> None:
        super().__init__(context, api)
        self._reports = reports

    async def show(self, interaction: Interaction, channel: AppCommandChannel | AppCommandThread | None) -> None:
        """/admin reports. `channel`: is told of reports from now on."""
        if not await begin(interaction):
            return
        if channel is not None:
            if not _may_write(interaction, channel):
                raise Hint(
                    _("I may not write in {channel}. Please choose another one.").format(channel=channel.mention)
                )
            await self._reports.set_channel(guild_key(interaction), channel.id)
        await self._list(interaction)

    def handlers(self) -> Mapping[str, ComponentHandler]:
        """The buttons and the menu under the list and under a report."""
        return {
            "reports": self._turned,
            "reported": self._chosen,
            "reports-quiet": self._quiet,
            "report-close": self._closed,
            "report-delete": self._deleted,
            "report-file": self._file,
        }

    async def _turned(self, interaction: Interaction, argument: str) -> None:
        """`argument`: "before:", "after:" or "all:", and a report."""
        word, _colon, place = argument.partition(":")
        if word not in ("before", "after", "all"):
            raise OldButton()
        report_id = number(place)
        if await begin(interaction):
            await self._list(
                interaction,
                before=report_id if word == "before" else None,
                after=report_id if word == "after" else None,
            )

    async def _chosen(self, interaction: Interaction, argument: str) -> None:
        report_id = chosen_number(interaction)
        if await begin(interaction):
            await self._show(interaction, await self._find(interaction, report_id))

    async def _quiet(self, interaction: Interaction, argument: str) -> None:
        if await begin(interaction):
            await self._reports.set_channel(guild_key(interaction), None)
            await self._list(interaction)

    async def _closed(self, interaction: Interaction, argument: str) -> None:
        """`argument`: the report, and 1 to close it or 0 to open it again."""
        report, _colon, closed = argument.partition(":")
        report_id = number(report)
        if await begin(interaction):
            await self._reports.close(guild_key(interaction), report_id, closed=number(closed) == 1)
            await self._show(interaction, await self._find(interaction, report_id))

    async def _deleted(self, interaction: Interaction, argument: str) -> None:
        """`argument`: the report, and 1 if it was confirmed."""
        report, _colon, sure = argument.partition(":")
        report_id, is_sure = number(report), number(sure) == 1
        if not await begin(interaction):
            return
        if not is_sure:
            await self._show(interaction, await self._find(interaction, report_id), sure=True)
            return
        if not await self._reports.delete(guild_key(interaction), report_id):
            raise _gone()
        await self._list(interaction)

    async def _file(self, interaction: Interaction, argument: str) -> None:
        report_id = number(argument)
        if await defer(interaction, ephemeral=True):
            report = await self._find(interaction, report_id)
            file = discord.File(io.BytesIO(report_file(report).encode()), f"report-{report_id}.txt")
            await interaction.followup.send(file=file, ephemeral=True, allowed_mentions=NO_MENTIONS)

    async def _list(self, interaction: Interaction, *, before: int | None = None, after: int | None = None) -> None:
        key = guild_key(interaction)
        found = await self._reports.page(key, before=before, after=after, limit=PAGE + 1)
        if not found and (before is not None or after is not None):
            await self._list(interaction)  # the page is gone: from the beginning
            return
        lines, older, newer = one_page(found, PAGE, before=before, after=after)
        num_open, num_all = await self._reports.counts(key)
        channel_id = await self._reports.channel(key)
        days = self.context.settings.report_retention_days
        text = list_text(lines, num_open, num_all, channel_id, days)
        await self.answer(interaction, text, list_buttons(lines, older=older, newer=newer, channel_id=channel_id))

    async def _show(self, interaction: Interaction, report: ReportDetails, *, sure: bool = False) -> None:
        lines = details_text(report).split("\n")
        while utf16_length("\n".join(lines)) > _MAX_CHARS:  # many characters outside the basic plane
            lines = [*lines[:-2], lines[-1]]
        await self.answer(interaction, "\n".join(lines), details_buttons(report.line, sure=sure))

    async def _find(self, interaction: Interaction, report_id: int) -> ReportDetails:
        found = await self._reports.details(guild_key(interaction), report_id)
        if found is None:
            raise _gone()
        return found


def _gone() -> Hint:
    return Hint(_("This report is gone: it was deleted, or the person it is about had their data deleted."))


def _may_write(interaction: Interaction, channel: AppCommandChannel | AppCommandThread) -> bool:
    """Whether the bot may write there, as far as it is known."""
    found = interaction.guild.get_channel_or_thread(channel.id) if interaction.guild else None
    me = interaction.guild.me if interaction.guild else None
    if found is None or me is None:
        return True
    allowed = found.permissions_for(me)
    in_thread = isinstance(found, discord.Thread)
    return allowed.view_channel and (allowed.send_messages_in_threads if in_thread else allowed.send_messages)
