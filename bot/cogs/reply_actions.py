"""The buttons under a reply: Stop while it is written; Regenerate, Continue, Edit, Forget, ◀ ▶ and As file afterwards.

They are served by their custom ids, so that they also work after a restart and on replies of last week. Everything is
checked against the stored turn (`TurnActions`); a press of someone else gets a short ephemeral answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Mapping

import discord
from discord.ui import Label, Modal, TextInput

from bot.chat.stop_requests import NotTheAsker
from bot.cogs.chat import place_of
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import DISCORD_ERRORS, defer_click
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.modal_values import submitted_values
from bot.discord_app.permissions.actions import Action
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.turn_actions import TurnActions, TurnIsGone, number_in
from bot.discord_app.rest.message_data import FILE_NAME, NO_MENTIONS
from bot.errors import BotError, DatabaseUnavailable
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import Place, StopRequester, TurnInfo

_MODAL_TIMEOUT = 2.0  # seconds, of the 3 in which a modal must be opened
_TEXT = "text"
_MAX_TEXT_INPUT = 4000  # Discord's limit


class ReplyActions(FeatureCog):
    """Serves the buttons under replies."""

    def __init__(self, context: CommandContext, conversations: Conversations) -> None:
        super().__init__(context)
        self._conversations = conversations
        self._actions = TurnActions(conversations)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """One handler for each button, and the modal of Edit."""
        return {
            Action.STOP.value: self._stop,
            Action.REGENERATE.value: self._regenerate,
            Action.CONTINUE.value: self._continue,
            Action.VARIANT.value: self._switch,
            Action.EDIT.value: self._edit,
            Action.FORGET.value: self._forget,
            Action.FILE.value: self._file,
        }

    async def _stop(self, interaction: Interaction, argument: str) -> None:
        """Stop the reply, which keeps the text so far. `argument`: ids of the asker, and of what asked."""
        user_id, _colon, question_id = argument.partition(":")
        caller = caller_of(interaction)
        if user_id != str(caller.user_id) and not caller.manages_guild:
            raise NotTheAsker()
        acknowledged = await defer_click(interaction)
        by = StopRequester(caller.user_id, caller.guild_id if caller.manages_guild else None)
        stopped = await self.context.chat.stop_reply(number_in(question_id), by)
        if acknowledged and not stopped:
            # It has finished meanwhile, or its process is gone: remove the button.
            with contextlib.suppress(*DISCORD_ERRORS):  # the message may be gone as well
                await interaction.edit_original_response(view=None)
            await _say(interaction, _("I am not writing this answer any more."))

    async def _regenerate(self, interaction: Interaction, argument: str) -> None:
        turn = await self._acknowledged(interaction, argument)
        await self._actions.rewrite(caller_of(interaction), turn, "regenerate", _way(interaction))

    async def _continue(self, interaction: Interaction, argument: str) -> None:
        turn = await self._acknowledged(interaction, argument)
        await self._actions.rewrite(caller_of(interaction), turn, "continue", _way(interaction))

    async def _switch(self, interaction: Interaction, argument: str) -> None:
        """`argument`: ids of the turn, and the position of the reply to show."""
        turn_id, _colon, position = argument.partition(":")
        turn = await self._acknowledged(interaction, turn_id)
        await self._actions.switch(turn, number_in(position), _way(interaction))

    async def _forget(self, interaction: Interaction, argument: str) -> None:
        turn = await self._acknowledged(interaction, argument, in_open_dialog=False)
        await self._actions.forget(turn, _way(interaction))

    async def _file(self, interaction: Interaction, argument: str) -> None:
        """Send the whole reply as a file, to the one who asked for it."""
        await interaction.response.defer(ephemeral=True, thinking=True)
        turn = await self._actions.find(caller_of(interaction), number_in(argument), in_open_dialog=False)
        file = discord.File(io.BytesIO((turn.reply or "").encode()), FILE_NAME)
        await interaction.followup.send(file=file, ephemeral=True, allowed_mentions=NO_MENTIONS)

    async def _edit(self, interaction: Interaction, argument: str) -> None:
        """Open the modal with the member's own text, or take what was submitted in it."""
        if interaction.type is discord.InteractionType.modal_submit:
            text = _submitted(interaction)
            turn = await self._acknowledged(interaction, argument)
            await self._actions.replace(caller_of(interaction), turn, text, _way(interaction))
            return
        try:
            async with asyncio.timeout(_MODAL_TIMEOUT):
                turn = await self._actions.find(caller_of(interaction), number_in(argument))
        except TimeoutError:
            raise DatabaseUnavailable("the turn to edit could not be read in time") from None
        await interaction.response.send_modal(_edit_modal(turn))

    async def _acknowledged(self, interaction: Interaction, argument: str, *, in_open_dialog: bool = True) -> TurnInfo:
        """Acknowledge the press, then find its turn and check the caller. Raises TurnIsGone or NotAllowed."""
        if not await defer_click(interaction):
            raise TurnIsGone()
        return await self._actions.find(caller_of(interaction), number_in(argument), in_open_dialog=in_open_dialog)


def _edit_modal(turn: TurnInfo) -> Modal:
    """The member's message to be edited. It says so if more than this exchange is replaced."""
    modal = Modal(title=_("Edit my message"), custom_id=f"{Action.EDIT.value}:{turn.turn_id}", timeout=None)
    note = _("I answer the new text in place of the old one.")
    if turn.num_later:
        note = ngettext(
            "I forget the exchange after it and answer the new text.",
            "I forget the {number} exchanges after it and answer the new text.",
            turn.num_later,
        ).format(number=turn.num_later)
    field: TextInput[Modal] = TextInput(
        style=discord.TextStyle.paragraph,
        default=turn.user_text[:_MAX_TEXT_INPUT],
        max_length=_MAX_TEXT_INPUT,
        custom_id=_TEXT,
    )
    modal.add_item(Label(text=_("Your message"), description=note[:100], component=field))
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal


def _submitted(interaction: Interaction) -> str:
    """The text of the modal's one field. Raises BotError for a modal of another shape."""
    found = submitted_values(interaction.data).get(_TEXT)
    if not found:
        raise BotError(_("I cannot read this form. Please press the button again."))
    return found[0]


def _way(interaction: Interaction) -> Place:
    """How the message whose button was pressed can be reached: through the token of this interaction."""
    message = interaction.message
    ephemeral = message is not None and message.flags.ephemeral
    return place_of(interaction, ephemeral=ephemeral, message_ids=(message.id,) if message else ())


async def _say(interaction: Interaction, text: str) -> None:
    """A short ephemeral answer."""
    if interaction.response.is_done():
        await interaction.followup.send(text, ephemeral=True, allowed_mentions=NO_MENTIONS)
    else:
        await interaction.response.send_message(text, ephemeral=True, allowed_mentions=NO_MENTIONS)
