"""/history edit: a form with one of the member's own messages; the new text is answered in place of the old one.

What comes after the message is forgotten, which is asked first. The reply is written where the old one stands; if that
message can no longer be edited, in the answer to the form. Each step checks the turn as it is stored.
"""

from __future__ import annotations

import discord
import structlog
from discord import app_commands
from discord.ui import Label, Modal, TextInput

from bot.chat.history import HistoryReader, folded
from bot.cogs.chat import place_of
from bot.cogs.dialogs.answers import MAX_SUGGESTIONS, OldButton, answer, in_time, number
from bot.cogs.dialogs.whose import dialogs_here
from bot.discord_app.caller import Caller, caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import DISCORD_ERRORS, defer, defer_click, describe_error
from bot.discord_app.modal_values import submitted_values
from bot.discord_app.permissions.authorise import NotAllowed
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.question import Question
from bot.discord_app.replies.turn_actions import TurnActions, TurnIsGone
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import BotError
from bot.i18n.dates import day_and_time
from bot.i18n.language import N_, ngettext, use_language
from bot.i18n.language import gettext as _
from models.types import DIRECT_MESSAGES, Exchange, Place, TurnInfo

log = structlog.get_logger(__name__)

_TEXT = "text"
_MAX_TEXT_INPUT = 4000  # Discord's limit
_REPLACED = N_("-# The question was changed. I am writing another answer…")
_NOTHING = N_("You have said nothing here yet that you could change.")


class EditCommand:
    """The command, its suggestions, the button that asks first, and the form."""

    def __init__(self, context: CommandContext, conversations: Conversations, reader: HistoryReader) -> None:
        self._context = context
        self._conversations = conversations
        self._actions = TurnActions(conversations)
        self._reader = reader

    async def command(self, interaction: Interaction, exchange: str | None) -> None:
        """Open the form, or ask first if more than this exchange is replaced."""
        async with in_time():
            turn = await self._find(interaction, exchange)
        if turn.num_later == 0:
            await interaction.response.send_modal(_form(turn))
            return
        view = discord.ui.View(timeout=None)
        view.add_item(
            discord.ui.Button(
                label=_("Edit it and forget the rest"),
                style=discord.ButtonStyle.danger,
                custom_id=f"history:edit:{turn.turn_id}",
            )
        )
        view.stop()  # discord.py need not remember it: the bot serves buttons by their custom ids
        await interaction.response.send_message(_warning(turn), view=view, ephemeral=True, allowed_mentions=NO_MENTIONS)

    async def suggestions(self, interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
        """The member's last messages, those first that contain what they have typed; none if the database is slow."""
        try:
            async with in_time():
                own = await self._own_exchanges(interaction)
        except BotError:
            return []
        wanted = folded(current)
        return [
            app_commands.Choice(name=f"{day_and_time(each.at)} · {_short(each.user)}", value=str(each.turn_id))
            for each in own
            if wanted in folded(each.user) or current == str(each.turn_id)
        ][:MAX_SUGGESTIONS]

    async def pressed(self, interaction: Interaction, argument: str) -> None:
        """Open the form after the warning, or take what was submitted in it. `argument`: the id of the turn."""
        if interaction.type is discord.InteractionType.modal_submit:
            await self._submitted(interaction, number(argument))
            return
        async with in_time():
            turn = await self._own_turn(interaction, number(argument))
        await interaction.response.send_modal(_form(turn))

    async def _submitted(self, interaction: Interaction, turn_id: int) -> None:
        text = _text_of(interaction)
        # The form of a button edits the message of that button; that of the command gets an answer of its own.
        if not await (defer_click(interaction) if interaction.message else defer(interaction, ephemeral=True)):
            return
        turn = await self._own_turn(interaction, turn_id)
        caller = caller_of(interaction)
        link = await self._mark_old_answer(turn)
        if link is None:
            await self._answer_here(interaction, caller, turn, text)
            return
        where = _("I answer your new text in place of the old one: {link}").format(link=link)
        await answer(self._conversations.api, interaction, where)
        await self._actions.replace(caller, turn, text, _as_the_bot(interaction))

    async def _mark_old_answer(self, turn: TurnInfo) -> str | None:
        """Say in the message with the old answer that it does not hold any more; return a link to it.

        None if it cannot be edited: it is gone, was for the member alone, or the bot has no access to it.
        """
        delivery = await self._context.chat.turns.delivery(turn)
        message_id = delivery.messages[0].message_id if delivery and delivery.messages else None
        if delivery is None or delivery.place.ephemeral or message_id is None:
            return None
        place = delivery.place
        with use_language(await self._conversations.languages.of_place(place)):
            text = _(_REPLACED)
        try:
            await self._conversations.api.edit(place.channel_id, message_id, text)
        except DISCORD_ERRORS as error:
            log.info("an earlier answer could not be edited", turn=turn.turn_id, error=describe_error(error))
            return None
        return f"https://discord.com/channels/{place.guild_id or '@me'}/{place.channel_id}/{message_id}"

    async def _answer_here(self, interaction: Interaction, caller: Caller, turn: TurnInfo, text: str) -> None:
        """Answer in the response to the form, to the member alone."""
        async with self._conversations.changes.hold(turn.turn_id):
            delivery = await self._context.chat.turns.delivery(turn)
            stands = delivery is not None and delivery.place.ephemeral  # above, and nothing can change it any more
            place = place_of(interaction, ephemeral=True)
            await self._conversations.answer(Question(caller, place, text, turn=turn, anew=stands))

    async def _find(self, interaction: Interaction, exchange: str | None) -> TurnInfo:
        if exchange is not None:
            try:
                return await self._own_turn(interaction, number(exchange.strip()))
            except OldButton:
                raise BotError(_("Please choose one of the messages that are suggested while you type.")) from None
        own = await self._own_exchanges(interaction)
        if not own:
            raise BotError(_(_NOTHING))
        return await self._own_turn(interaction, own[0].turn_id)

    async def _own_exchanges(self, interaction: Interaction) -> list[Exchange]:
        """What the member said last here, privately too, the newest first."""
        found: list[Exchange] = []
        for key in (await dialogs_here(self._context, interaction)).keys:
            stretch = await self._reader.stretch(key)
            found += [each for each in (stretch.exchanges if stretch else ()) if each.own]
        return sorted(found, key=lambda each: each.turn_id, reverse=True)

    async def _own_turn(self, interaction: Interaction, turn_id: int) -> TurnInfo:
        """The turn, if this member asked it and its conversation is in use. Admins may not edit the words of others."""
        caller = caller_of(interaction)
        turn = await self._actions.find(caller, turn_id)
        if turn.author_id != caller.user_id:
            raise NotAllowed(_("You can change your own messages only."))
        if turn.key.dialog not in {key.dialog for key in (await dialogs_here(self._context, interaction)).keys}:
            raise TurnIsGone()
        return turn


def _warning(turn: TurnInfo) -> str:
    text = ngettext(
        "I would forget the exchange after this message and answer its new text:",
        "I would forget the {number} exchanges after this message and answer its new text:",
        turn.num_later,
    ).format(number=turn.num_later)
    return f"{text}\n> {_short(turn.user_text)}"


def _form(turn: TurnInfo) -> Modal:
    """The form with the member's message."""
    modal = Modal(title=_("Edit my message"), custom_id=f"history:edit:{turn.turn_id}", timeout=None)
    field: TextInput[Modal] = TextInput(
        style=discord.TextStyle.paragraph,
        default=turn.user_text[:_MAX_TEXT_INPUT],
        max_length=_MAX_TEXT_INPUT,
        custom_id=_TEXT,
    )
    note = _("I answer the new text in place of the old one.")
    if turn.num_later:
        note = _("I forget what comes after it ({number}) and answer the new text.").format(number=turn.num_later)
    modal.add_item(Label(text=_("Your message"), description=note, component=field))
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal


def _text_of(interaction: Interaction) -> str:
    """The text of the form's one field. Raises BotError for a form of another shape."""
    found = submitted_values(interaction.data).get(_TEXT)
    if not found:
        raise BotError(_("I cannot read this form. Please use the command again."))
    return found[0]


def _as_the_bot(interaction: Interaction) -> Place:
    """The way to messages of an earlier interaction: by the channel, as the bot that wrote them."""
    return Place(
        guild_id=interaction.guild_id or DIRECT_MESSAGES,
        channel_id=interaction.channel_id or 0,
        asker_id=interaction.user.id,
        nonce=interaction.id,
    )


def _short(text: str) -> str:
    line = discord.utils.escape_mentions(" ".join(text.split()))
    return line if len(line) <= 60 else line[:59] + "…"
