"""/admin user, block and unblock: what a member uses, whether they may talk with the bot, their data in this guild."""

from __future__ import annotations

from collections.abc import Mapping

import discord
from discord.ui import Label, Modal, Select, TextInput

from bot.cogs.admin.member_text import (
    DAYS,
    LASTS,
    blocked_text,
    lasts_labels,
    member_buttons,
    member_text,
    unblocked_text,
)
from bot.cogs.admin.part import AdminPart, begin, check_typed, custom_id, guild_key, typed_modal
from bot.cogs.dialogs.answers import OldButton, number
from bot.cogs.limits.left import LeftReader
from bot.cogs.limits.text import left_lines
from bot.discord_app.caller import caller_of, role_ids_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler
from bot.discord_app.modal_values import submitted_values
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import Hint
from bot.guilds.administration.blocks import MAX_REASON
from bot.i18n.language import gettext as _
from bot.storage import translate_database_errors
from bot.text import clean_text
from models.types import StopRequester

_REASON, _LASTS = "reason", "lasts"
_DEFAULT_LASTS = "1d"


class Members(AdminPart):
    """One member, as the admins of a guild see them."""

    def __init__(self, context: CommandContext, api: MessageApi, left: LeftReader) -> None:
        super().__init__(context, api)
        self._left = left

    async def show(self, interaction: Interaction, member: discord.User | discord.Member) -> None:
        """/admin user."""
        if await begin(interaction):
            await self._show(interaction, member.id, member=member)

    async def block(
        self, interaction: Interaction, member: discord.User | discord.Member, reason: str, lasts: str
    ) -> None:
        """/admin block."""
        _check_target(interaction, member)
        if await begin(interaction):
            await self._block(interaction, member.id, reason, lasts)

    async def unblock(self, interaction: Interaction, member: discord.User | discord.Member) -> None:
        """/admin unblock."""
        if await begin(interaction):
            was = await self.context.blocks.unblock(guild_key(interaction, member.id), actor_id=interaction.user.id)
            await self._show(interaction, member.id, unblocked_text(member.id, was=was), member=member)

    def handlers(self) -> Mapping[str, ComponentHandler]:
        """The buttons under /admin user, and the forms that they open."""
        return {"block": self._block_pressed, "unblock": self._unblock_pressed, "delete": self._delete_pressed}

    async def _block_pressed(self, interaction: Interaction, argument: str) -> None:
        """`argument`: the member. Open the form, or take what was submitted in it."""
        user_id = number(argument)
        if interaction.type is not discord.InteractionType.modal_submit:
            await interaction.response.send_modal(_block_modal(user_id))
            return
        if user_id == interaction.user.id:
            raise Hint(_("You cannot block yourself."))
        values = submitted_values(interaction.data)
        reason, lasts = (values.get(each) or ("",) for each in (_REASON, _LASTS))
        if await begin(interaction):
            await self._block(interaction, user_id, reason[0], lasts[0])

    async def _unblock_pressed(self, interaction: Interaction, argument: str) -> None:
        user_id = number(argument)
        if await begin(interaction):
            was = await self.context.blocks.unblock(guild_key(interaction, user_id), actor_id=interaction.user.id)
            await self._show(interaction, user_id, unblocked_text(user_id, was=was))

    async def _delete_pressed(self, interaction: Interaction, argument: str) -> None:
        """`argument`: the member, and how many records they had. Ask for it to be typed, or delete."""
        member, _colon, rows = argument.partition(":")
        user_id, count = number(member), number(rows)
        if interaction.type is not discord.InteractionType.modal_submit:
            modal = typed_modal(_("Delete a member's data"), custom_id("delete", user_id, count), count)
            await interaction.response.send_modal(modal)
            return
        check_typed(interaction, count)
        if not await begin(interaction):
            return
        key = guild_key(interaction, user_id)
        await self._stop_replies(interaction, user_id)
        with translate_database_errors():
            receipt = await self.context.privacy.delete(user_id, guild_id=key.guild_id, actor_id=interaction.user.id)
        self.context.personas.changed.set()
        done = _("Their data in this guild is deleted, also from the engine's memory. Receipt `{receipt}`.")
        await self._show(interaction, user_id, done.format(receipt=receipt.receipt_id))

    async def _block(self, interaction: Interaction, user_id: int, reason: str, lasts: str) -> None:
        if lasts not in LASTS:
            raise OldButton()
        block = await self.context.blocks.block(
            guild_key(interaction, user_id),
            lasts=LASTS[lasts],
            reason=clean_text(reason)[:MAX_REASON] or None,
            actor_id=interaction.user.id,
        )
        await self._stop_replies(interaction, user_id)
        await self._show(interaction, user_id, blocked_text(user_id, block))

    async def _stop_replies(self, interaction: Interaction, user_id: int) -> None:
        """Stop what is being written for the member, in any process, and what waits here."""
        key = guild_key(interaction, user_id)
        by = StopRequester(interaction.user.id, caller_of(interaction).guild_id)
        questions = await self.context.blocks.pending_questions(key)
        await self.context.chat.stop_member(key.guild_id, user_id, questions, by)

    async def _show(
        self,
        interaction: Interaction,
        user_id: int,
        done: str = "",
        *,
        member: discord.User | discord.Member | None = None,
    ) -> None:
        """`member`: as Discord sends them with a command. After a button their roles and limits are not known."""
        manages_guild = member is not None and _manages(member)
        key = guild_key(interaction, user_id)
        seen = await self.context.blocks.overview(key, DAYS)
        with translate_database_errors():
            stored = await self.context.privacy.show(user_id, guild_id=key.guild_id)
        rows = sum(stored.counts.values())
        left: list[str] = []
        if isinstance(member, discord.Member):
            left = left_lines(await self._left.of_member(key, role_ids_of(member)))
        text = member_text(user_id, seen, rows, manages_guild=manages_guild, left=left)
        buttons = member_buttons(user_id, seen.block, rows, manages_guild=manages_guild)
        await self.answer(interaction, f"{done}\n{text}" if done else text, buttons)


def _manages(member: discord.User | discord.Member) -> bool:
    if not isinstance(member, discord.Member):
        return False
    allowed = member.resolved_permissions or member.guild_permissions
    return allowed.manage_guild or allowed.administrator


def _check_target(interaction: Interaction, member: discord.User | discord.Member) -> None:
    if member.id == interaction.user.id:
        raise Hint(_("You cannot block yourself."))
    if _manages(member):
        raise Hint(_("Members with Manage Server cannot be blocked: they could end the block themselves."))


def _block_modal(user_id: int) -> Modal:
    modal = Modal(title=_("Block a member"), custom_id=custom_id("block", user_id), timeout=None)
    reason: TextInput[Modal] = TextInput(
        custom_id=_REASON, style=discord.TextStyle.paragraph, required=False, max_length=MAX_REASON
    )
    options = [
        discord.SelectOption(label=label, value=word, default=word == _DEFAULT_LASTS)
        for word, label in lasts_labels().items()
    ]
    lasts: Select[Modal] = Select(custom_id=_LASTS, options=options)
    modal.add_item(
        Label(
            text=_("Reason"),
            description=_("The member reads it when they try to talk with me. Nobody else does but admins."),
            component=reason,
        )
    )
    modal.add_item(Label(text=_("For how long"), component=lasts))
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal
