"""/admin purge: counted beforehand, confirmed by typing, conversations back within ten minutes.

The button has what is meant and when it was counted; the form counts again before anything is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import get_args

import discord

from bot.cogs.admin.part import AdminPart, begin, check_typed, custom_id, guild_key, typed_modal
from bot.cogs.admin.purge_text import done_text, nothing_text, question_text, undone_text
from bot.cogs.dialogs.answers import OldButton, number
from bot.cogs.dialogs.buttons import button, moment_id, moment_of, row
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import BotError
from bot.guilds.administration.purges import UNDO_WITHIN, Purges
from bot.i18n.language import gettext as _
from models.types import DialogKey, PurgeCounts, PurgeKind, PurgeScope

MAX_DAYS = 36_500


class Purge(AdminPart):
    """The question, the form and the undo."""

    def __init__(self, context: CommandContext, api: MessageApi, purges: Purges) -> None:
        super().__init__(context, api)
        self._purges = purges

    async def ask(
        self, interaction: Interaction, what: str, member: discord.User | discord.Member | None, days: int | None
    ) -> None:
        """/admin purge: say what would be deleted."""
        kind = _kind(what)
        if await begin(interaction):
            await self._ask(interaction, _scope(kind, 0 if member is None else member.id, days or 0, datetime.now(UTC)))

    def handlers(self) -> Mapping[str, ComponentHandler]:
        """The button of the question, its form, and Undo."""
        return {"purge": self._pressed, "purge-undo": self._undo}

    async def _ask(self, interaction: Interaction, scope: PurgeScope) -> None:
        counts = await self._purges.count(guild_key(interaction), scope)
        if not counts.total and not counts.summaries:
            await self.answer(interaction, nothing_text())
            return
        confirm = button(_("Delete …"), _button_id(scope, counts), danger=True)
        await self.answer(interaction, question_text(scope, counts), row(confirm))

    async def _pressed(self, interaction: Interaction, argument: str) -> None:
        """`argument`: what is meant, of whom, how old in days, when it was counted, and how much that was."""
        parts = argument.split(":")
        if len(parts) != 5:
            raise OldButton()
        kind, member_id, days, total = _kind(parts[0]), number(parts[1]), number(parts[2]), number(parts[4])
        scope = _scope(kind, member_id, days, _moment(parts[3]))
        if interaction.type is not discord.InteractionType.modal_submit:
            await interaction.response.send_modal(
                typed_modal(_("Delete for good"), custom_id("purge", argument), total)
            )
            return
        check_typed(interaction, total)
        if not await begin(interaction):
            return
        key = guild_key(interaction)
        counts = await self._purges.count(key, scope)
        if counts.total != total:  # somebody deleted some of it meanwhile
            await self._ask(interaction, scope)
            return
        await self._run(interaction, key, scope, counts)

    async def _run(self, interaction: Interaction, key: DialogKey, scope: PurgeScope, counts: PurgeCounts) -> None:
        if scope.has("conversations") and scope.older_than is None:
            self.context.chat.dialogs.refuse_waiting_where(lambda dialog: _is_meant(dialog, key, scope), _refused)
        began = datetime.now(UTC)
        purge_id = await self._purges.run(key, scope, counts)
        self.context.personas.changed.set()
        if purge_id is None:
            await self.answer(interaction, done_text(counts, None))
            return
        undo = button(_("Undo"), custom_id("purge-undo", purge_id))
        await self.answer(interaction, done_text(counts, began + UNDO_WITHIN), row(undo))

    async def _undo(self, interaction: Interaction, argument: str) -> None:
        purge_id = number(argument)
        if await begin(interaction):
            await self.answer(interaction, undone_text(await self._purges.undo(guild_key(interaction), purge_id)))


def _is_meant(dialog: DialogKey, key: DialogKey, scope: PurgeScope) -> bool:
    if dialog.guild_id != key.guild_id:
        return False
    return scope.member_id is None or (not dialog.shared and dialog.user_id == scope.member_id)


def _refused() -> BotError:
    return BotError(_("An admin deleted our conversation before I came to this message. Please ask again."))


def _kind(word: str) -> PurgeKind:
    found: PurgeKind | None = next((kind for kind in get_args(PurgeKind) if kind == word), None)
    if found is None:
        raise OldButton()
    return found


def _scope(kind: PurgeKind, member_id: int, days: int, counted_at: datetime) -> PurgeScope:
    """0 means everyone, and any age."""
    older_than = counted_at - timedelta(days=min(days, MAX_DAYS)) if days else None
    return PurgeScope(kind, counted_at, member_id or None, older_than)


def _moment(text: str) -> datetime:
    """When it was counted; never in the future, and no older than a week."""
    now = datetime.now(UTC)
    try:
        moment = moment_of(number(text))
    except OverflowError:
        raise OldButton() from None
    if moment < now - timedelta(days=7):
        raise OldButton()
    return min(moment, now)


def _button_id(scope: PurgeScope, counts: PurgeCounts) -> str:
    days = 0 if scope.older_than is None else (scope.counted_at - scope.older_than).days
    return custom_id("purge", scope.kind, scope.member_id or 0, days, moment_id(scope.counted_at), counts.total)
