"""/admin audit: the audit log by pages, filtered, and as a file."""

from __future__ import annotations

import io
from collections.abc import Mapping

import discord

from bot.cogs.admin.audit_text import GROUPS, as_csv, page_text, persona_ids
from bot.cogs.admin.part import AdminPart, begin, custom_id, guild_key, one_page
from bot.cogs.dialogs.answers import OldButton, number
from bot.cogs.dialogs.buttons import button, row
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import Hint
from bot.guilds.administration.audit import AuditFilter, AuditLog
from bot.i18n.language import gettext as _
from models.types import AuditRecord

PAGE = 10
"""Entries on a page, if there is room for them."""
_MAX_CHARS = 1_900
_EVERYTHING = "all"


class Audit(AdminPart):
    """The pages of the audit log, and the file."""

    def __init__(self, context: CommandContext, api: MessageApi, log: AuditLog) -> None:
        super().__init__(context, api)
        self._log = log

    async def show(self, interaction: Interaction, actions: str, member: discord.User | discord.Member | None) -> None:
        """/admin audit."""
        wanted = _filter(actions or _EVERYTHING, 0 if member is None else member.id)
        if await begin(interaction):
            await self._show(interaction, wanted)

    def handlers(self) -> Mapping[str, ComponentHandler]:
        """Older, Newer and As file."""
        return {"audit": self._turned, "audit-file": self._file}

    async def _turned(self, interaction: Interaction, argument: str) -> None:
        """`argument`: "before:" or "after:", an entry, and the filter."""
        parts = argument.split(":")
        if len(parts) != 4 or parts[0] not in ("before", "after"):
            raise OldButton()
        entry, wanted = number(parts[1]), _filter(parts[2], number(parts[3]))
        if await begin(interaction):
            older = parts[0] == "before"
            await self._show(interaction, wanted, before=entry if older else None, after=None if older else entry)

    async def _file(self, interaction: Interaction, argument: str) -> None:
        """`argument`: the filter."""
        actions, _colon, member = argument.partition(":")
        wanted = _filter(actions, number(member))
        if not await defer(interaction, ephemeral=True):
            return
        key = guild_key(interaction)
        records = await self._log.all(key, wanted)
        table = as_csv(records, await self._log.persona_names(key, persona_ids(records)))
        data = table.encode("utf-8-sig")  # spreadsheets know UTF-8 by this mark
        if len(data) > interaction.filesize_limit:
            raise Hint(_("There is too much for one file on Discord. Please choose an action or a member."))
        await interaction.followup.send(
            file=discord.File(io.BytesIO(data), "audit-log.csv"), ephemeral=True, allowed_mentions=NO_MENTIONS
        )

    async def _show(
        self, interaction: Interaction, wanted: AuditFilter, *, before: int | None = None, after: int | None = None
    ) -> None:
        key = guild_key(interaction)
        found = await self._log.page(key, wanted, before=before, after=after, limit=PAGE + 1)
        if not found and (before is not None or after is not None):
            await self._show(interaction, wanted)  # the page is gone: from the beginning
            return
        page, older, newer = one_page(found, PAGE, before=before, after=after)
        if not page:
            await self.answer(interaction, _("There is nothing of this kind in the audit log."))
            return
        names = await self._log.persona_names(key, persona_ids(page))
        text, count = page_text("### " + _("Audit log"), page, names, _MAX_CHARS)
        shown = page[:count]
        await self.answer(interaction, text, _buttons(shown, wanted, older=older or count < len(page), newer=newer))


def _buttons(
    shown: tuple[AuditRecord, ...], wanted: AuditFilter, *, older: bool, newer: bool
) -> list[dict[str, object]]:
    which = (wanted.actions or _EVERYTHING, wanted.member_id or 0)
    file = button(_("As a file"), custom_id("audit-file", *which))
    if not older and not newer:
        return row(file)
    return row(
        button(_("Older"), custom_id("audit", "before", shown[-1].entry_id, *which), disabled=not older),
        button(_("Newer"), custom_id("audit", "after", shown[0].entry_id, *which), disabled=not newer),
        file,
    )


def _filter(actions: str, member_id: int) -> AuditFilter:
    if actions not in (_EVERYTHING, *GROUPS):
        raise OldButton()
    return AuditFilter("" if actions == _EVERYTHING else actions, member_id or None)
