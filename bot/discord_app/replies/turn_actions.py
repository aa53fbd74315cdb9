"""What can be done with a reply that is on the screen: another one, more of it, an earlier one, none.

The same for buttons and reactions. A caller is checked against the turn as it is stored, whatever a custom id says.
Knows conversations and turns; knows no object of discord.py.
"""

from __future__ import annotations

from dataclasses import replace

from bot.chat.requests import TurnKind
from bot.discord_app.caller import Caller
from bot.discord_app.permissions.authorise import authorise_turn
from bot.discord_app.replies.buttons import ReplyState, reply_buttons
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.final_text import CUT_OFF, outgoing_messages
from bot.discord_app.replies.question import Question
from bot.discord_app.replies.quoting import ANEW, heading, small_lines, speaker_line
from bot.discord_app.replies.sinks.sink import ReplySink
from bot.discord_app.replies.streamed_reply import StreamedReply
from bot.discord_app.replies.webhooks.voices import voice_lines
from bot.errors import BotError
from bot.failpoint import failpoint
from bot.i18n.language import N_, use_language
from bot.i18n.language import gettext as _
from models.types import DeliveryRecord, OutgoingMessage, Place, Speaker, TurnInfo


class TurnIsGone(BotError):
    """The turn was forgotten, purged, or belongs to a conversation that has ended."""

    def __init__(self) -> None:
        super().__init__(_("I do not remember this exchange any more, so I cannot change it."))


class TurnIsParked(BotError):
    """The turn belongs to another one of the conversations than that in use."""

    def __init__(self) -> None:
        super().__init__(_("This belongs to another conversation. `/conversation switch` goes back to it."))


class TurnActions:
    """Changes to turns of any tenant, each checked against its caller."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations
        self._chat = conversations.chat

    async def find(self, caller: Caller, turn_id: int, *, in_open_dialog: bool = True) -> TurnInfo:
        """The finished turn, if this caller may change it. Raises TurnIsGone or NotAllowed."""
        turn = await self._chat.turns.turn(turn_id)
        if turn is None:
            raise TurnIsGone()
        authorise_turn(caller, turn)
        if turn.is_parked and in_open_dialog:
            raise TurnIsParked()
        if turn.status != "done" or turn.reply is None or (in_open_dialog and not turn.is_open):
            raise TurnIsGone()
        return turn

    async def rewrite(self, caller: Caller, turn: TurnInfo, kind: TurnKind, way: Place) -> None:
        """Generate another reply, or more of the present one, in the messages that show it.

        `way`: how those messages can be reached now.
        """
        if kind == "continue" and turn.finish_reason != CUT_OFF:
            raise BotError(_("This answer is complete, there is nothing to go on with."))
        async with self._conversations.changes.hold(turn.turn_id):
            await self._answer(caller, turn, turn.user_text, kind, way)

    async def replace(self, caller: Caller, turn: TurnInfo, text: str, way: Place) -> None:
        """Replace what the member said, and all that followed it in the dialog; answer the new text."""
        async with self._conversations.changes.hold(turn.turn_id):
            await self._answer(caller, turn, text, "new", way)

    async def _answer(self, caller: Caller, turn: TurnInfo, text: str, kind: TurnKind, way: Place) -> None:
        """Answer in the messages of an earlier reply. If nothing comes of it, they show the earlier reply again."""
        delivery = await self._chat.turns.delivery(turn)
        place = place_in(delivery, way)
        question = Question(
            _author(caller, turn), place, text, kind, quote=True, turn=turn, anew=leaves_messages(delivery, place)
        )
        try:
            result = await self._conversations.answer(question)
        except Exception:
            await self._show_again(question)
            raise
        if result is not None and result.is_empty:
            await self._show_again(question)

    async def _show_again(self, question: Question) -> None:
        turn = None if question.turn is None else await self._chat.turns.turn(question.turn.turn_id)
        if turn is not None and turn.reply is not None:
            await self.show(turn, await self._chat.turns.delivery(turn), question.place)

    async def switch(self, turn: TurnInfo, position: int, way: Place) -> None:
        """Show another of the turn's replies; what is shown is what is remembered."""
        async with self._conversations.changes.hold(turn.turn_id):
            delivery = await self._chat.turns.delivery(turn)
            place = place_in(delivery, way)

            language = await self._conversations.languages.of_place(place)

            def messages(text: str, speaker: Speaker | None) -> tuple[OutgoingMessage, ...]:
                with use_language(language):
                    return outgoing_messages(text, _prefix(replace(turn, speaker=speaker), delivery, place))

            shown = await self._chat.turns.select_variant(turn, position, messages, place)
            if not shown:
                raise TurnIsGone()
            failpoint("after_switch")
            delivery = await self._chat.turns.delivery(turn)
            chosen = await self._chat.turns.turn(turn.turn_id)
            if chosen is None or chosen.reply is None:
                raise TurnIsGone()
            await self.show(chosen, delivery, place)

    async def show(
        self, turn: TurnInfo, delivery: DeliveryRecord | None, place: Place, *, sink: ReplySink | None = None
    ) -> None:
        """Show the stored reply of a turn in this place, with its buttons. `sink`: for this place, if there is one."""
        with use_language(await self._conversations.languages.of_place(place)):
            await self._show(turn, delivery, place, sink)

    async def _show(
        self, turn: TurnInfo, delivery: DeliveryRecord | None, place: Place, sink: ReplySink | None
    ) -> None:
        prefix = _prefix(turn, delivery, place)
        sink = sink or ReplySink(self._conversations.api, self._conversations.deliveries, place)
        sink.prefix, sink.name_line = prefix, speaker_line(turn.speaker)
        sink.speak_as(turn.speaker)
        sink.record.delivery_id = 0 if delivery is None else delivery.delivery_id
        sink.buttons = reply_buttons(state_of(turn, self._conversations.may_have_thread(place)))
        reply = StreamedReply(sink, self._conversations.edit_rate, prefix=prefix, num_messages=sink.num_messages)
        self._conversations.changes.shows_result(turn.turn_id)
        await reply.finish(turn.reply or "")

    async def forget(self, turn: TurnInfo, way: Place) -> None:
        """Delete the turn, and say so where its reply was."""
        async with self._conversations.changes.hold(turn.turn_id):
            delivery = await self._chat.turns.delivery(turn)
            place = place_in(delivery, way)
            if not await self._chat.turns.forget_turn(turn):
                raise TurnIsGone()
            sink = ReplySink(self._conversations.api, self._conversations.deliveries, place)
            reply = StreamedReply(sink, self._conversations.edit_rate, num_messages=sink.num_messages)
            text = FORGOTTEN_ABOVE if leaves_messages(delivery, place) else FORGOTTEN
            with use_language(await self._conversations.languages.of_place(place)):
                await reply.finish(_(text))


FORGOTTEN = N_("-# Forgotten: I no longer think of this exchange.")
FORGOTTEN_ABOVE = N_(
    "-# Forgotten: I no longer think of this exchange. What I wrote above belongs to it; I cannot change those "
    "messages any more."
)


def number_in(custom_id: str) -> int:
    """An id or a position in a part of a custom id. Raises TurnIsGone for anything else: the bot made none such."""
    if not custom_id.isascii() or not custom_id.isdecimal() or len(custom_id) > 19:
        raise TurnIsGone()
    return int(custom_id)


def state_of(turn: TurnInfo, may_have_thread: bool = False) -> ReplyState:
    """What the buttons under the stored reply of a turn show."""
    cut_off = turn.finish_reason == CUT_OFF
    length = len(turn.reply or "")
    return ReplyState(turn.turn_id, length, cut_off, turn.position, turn.num_variants, may_have_thread)


def stored_heading(turn: TurnInfo, place: Place) -> str:
    """What stands above the stored reply of a turn in this place."""
    return heading(place, turn.user_text) + voice_lines(place, turn.speaker, small_lines(turn.files_note))


def place_in(delivery: DeliveryRecord | None, way: Place) -> Place:
    """The messages that show a reply, reached in this way. Without a record, only the message that `way` names.

    So it is too where the bot reaches only the message whose button was pressed: new ones then follow that one.
    """
    if delivery is None:
        return way
    shown = delivery.place
    place = replace(
        way,
        channel_id=shown.channel_id,
        asker_id=shown.asker_id,
        ephemeral=shown.ephemeral,
        question_id=shown.question_id,
        about_id=shown.about_id,
        webhook_id=shown.webhook_id if shown.webhook_name else None,
        webhook_name=shown.webhook_name,
        asker_name=way.asker_name if way.asker_id == shown.asker_id else "",
    )
    if place.webhook_id is not None:  # its messages are reached by its own token, in every case
        place = replace(place, application_id=None, reply_token=None, token_expires_at=None)
    if place.by_token_only and way.message_ids:
        return place
    return replace(place, message_ids=tuple(each.message_id for each in delivery.messages) or way.message_ids)


def leaves_messages(delivery: DeliveryRecord | None, place: Place) -> bool:
    """Whether messages that show the present reply cannot be changed any more."""
    if delivery is None or not place.by_token_only:
        return False
    return any(each.message_id not in (None, *place.message_ids) for each in delivery.messages)


def _prefix(turn: TurnInfo, delivery: DeliveryRecord | None, place: Place) -> str:
    return (_(ANEW) if leaves_messages(delivery, place) else "") + stored_heading(turn, place)


def _author(caller: Caller, turn: TurnInfo) -> Caller:
    """The caller in the name of the turn's author: an admin who regenerates does not speak for themselves."""
    return caller if turn.author_id in (None, caller.user_id) else replace(caller, user_id=turn.author_id or 0)
