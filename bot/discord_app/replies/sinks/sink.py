"""Where one reply is shown: its Discord messages, by their positions, and what is recorded of each.

Each message is recorded (`bot.chat.turns.deliveries`), so that another process can go on after a crash. How one is sent
once and not twice is up to `sender`, how it is reached to `message_route`. Knows nothing of what a reply says or when
it is edited.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

from bot.chat.turns.deliveries import DeliveryLog
from bot.chat.turns.waiting_record import WaitingRecord
from bot.discord_app.delivery import sink_errors
from bot.discord_app.replies.quoting import ANEW, without_address
from bot.discord_app.replies.sinks.late_delivery import LateDelivery
from bot.discord_app.replies.sinks.message_route import MessageRoute
from bot.discord_app.replies.sinks.sender import MessageSender
from bot.discord_app.replies.sinks.sink_record import SinkRecord
from bot.discord_app.replies.webhooks.speaking import Speaking
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import Components
from bot.discord_app.rest.request_pace import Turn, Urgency
from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.failpoint import failpoint
from bot.i18n.language import gettext as _
from models.types import Place, Speaker


class ReplySink:
    """A `MessageSink` for one place. `prefix`: what stands above the reply, which a plain message does without.

    `uncertain`: another process may have sent messages that it did not record.
    """

    def __init__(
        self,
        api: MessageApi,
        deliveries: DeliveryLog,
        place: Place,
        *,
        prefix: str = "",
        stop_buttons: Components = (),
        uncertain: bool = False,
        on_waiting: Callable[[], Awaitable[int]] | None = None,
        record: WaitingRecord | None = None,
    ) -> None:
        """`on_waiting`: called before a place in line is shown; returns the record of it, 0 if there is none.

        `record`: such a record that exists already, of a question that was acknowledged.
        """
        self.buttons: Components = ()
        """The buttons under the finished reply."""
        self._api = api
        self._deliveries = deliveries
        self.prefix = prefix
        """What stands above the reply; a plain message that names the asker does without it."""
        self.name_line = ""
        """The end of it that such a message has as well: the name of the persona that answers."""
        self._stop_buttons = stop_buttons
        self._ids: dict[int, int] = {index: each for index, each in enumerate(place.message_ids) if each is not None}
        self._speaking = Speaking(api, deliveries, place)
        self.record = SinkRecord(deliveries, self._ids, is_open=uncertain, on_waiting=on_waiting, waiting=record)
        self._sender = MessageSender(deliveries, self._speaking, self.record, self._ids, uncertain=uncertain)

    @property
    def place(self) -> Place:
        """Where the reply is shown, with the webhook through which its messages are sent."""
        return self._speaking.place

    def speak_as(self, speaker: Speaker | None) -> None:
        """Let a persona speak through the webhook of the place; the bot itself, if there is none or it has no name."""
        self._speaking.speak_as(speaker)

    @property
    def _route(self) -> MessageRoute:
        return self._speaking.route

    @property
    def delivery_id(self) -> int:
        """The record of what is shown, 0 if there is none."""
        return self.record.delivery_id

    @property
    def message_ids(self) -> frozenset[int]:
        """The messages on Discord that belong to this reply."""
        return frozenset(self._ids.values())

    @property
    def ordered_ids(self) -> tuple[int | None, ...]:
        """The messages in their order, to be taken over by another sink."""
        return tuple(self._ids.get(index) for index in range(self.num_messages))

    @property
    def num_messages(self) -> int:
        """How many messages exist, or existed before the reply was written anew."""
        return max(self._ids, default=-1) + 1

    def turn(self, index: int, urgency: Urgency) -> contextlib.AbstractAsyncContextManager[Turn | None]:
        """Wait for a request to the channel. Requests with an interaction's token are counted apart."""
        return self._route.turn("edit" if index in self._ids else "create", urgency)

    async def show(
        self,
        index: int,
        text: str,
        *,
        live: bool,
        last: bool = False,
        file: str | None = None,
        turn: Turn | None = None,
    ) -> None:
        """Edit a message, or send it if it does not exist yet. `last`: no message follows, of a finished reply."""
        components = self._stop_buttons if live and index == 0 else self.buttons if last and not live else ()
        failpoint("before_message")
        if live:
            await self.record.before_live()
        else:
            await self.record.check_owner()
        await self._speaking.record(self.delivery_id)
        if self._speaking.is_out_of_voice(self._ids.get(index)):
            await self._replace_own(index)
        with sink_errors():
            known = self._ids.get(index) or await self._sender.find(index, text)
            if known is None:
                await self._sender.send(index, text, components, file, turn, live=live)
            else:
                await self._route.edit(known, text, components=components, file=file, turn=turn)
        failpoint("after_message")
        if not live:
            await self.record.settled()
            await self._deliveries.shown(self.delivery_id, [(index, self._ids[index])], done=last)
        elif known is None:
            self.record.sent_live(index)
        failpoint("after_shown")

    async def adopt(self, indexes: Iterable[int]) -> None:
        """Find messages that were about to be sent when their process died, so that they are edited or deleted."""
        await self._sender.adopt(indexes)

    async def delete(self, index: int) -> None:
        """Delete a message that the reply does not need any more."""
        message_id = self._ids.pop(index, None)
        if message_id is None:
            return
        await self._speaking.remove(message_id)
        await self.record.settled()
        await self._deliveries.shown(self.delivery_id, [(index, None)], done=False)

    async def _replace_own(self, index: int) -> None:
        """Delete a message of the bot itself in whose place the persona speaks now.

        It is forgotten first: a process that goes on from here must not look for it.
        """
        message_id = self._ids.pop(index)
        await self.record.settled()
        await self._deliveries.shown(self.delivery_id, [(index, None)], done=False)
        await self._speaking.remove(message_id)

    async def clear(self) -> None:
        """Delete the messages of a reply that failed, except the first one, which then shows the error."""
        for index in sorted(self._ids, reverse=True):
            if index > 0:
                await self.delete(index)

    async def delete_all(self) -> None:
        """Delete every message of a reply that is not to be seen any more."""
        for index in sorted(self._ids, reverse=True):
            await self.delete(index)

    async def postpone(self) -> bool:
        """Leave the rest to the job that finishes deliveries. False if it is not recorded or was tried often enough."""
        await self.record.settled()
        return self.delivery_id != 0 and await self._deliveries.release(self.delivery_id)

    async def send_fallback(self, messages: Sequence[str], file: str | None, *, first: int = 0) -> None:
        """Send the rest of a reply (from message `first`) as plain messages that name the asker: see `LateDelivery`."""
        await self.record.settled()
        by_reply = self._speaking.by_webhook and first == 0 and self.place.question_id is not None
        if self._speaking.by_webhook:
            messages = await self._fall_silent(messages, first)
        elif first == 0 and messages[0].startswith(self.prefix):
            messages = [self.name_line + messages[0].removeprefix(self.prefix), *messages[1:]]
        if not self.place.by_token_only:
            await self.adopt([first] if self._sender.is_unsure(first) and self.place.application_id is not None else [])
            for index in [index for index in self._ids if index >= first]:
                await self._route.remove(self._ids.pop(index))  # what it says is no answer; the record keeps the text
        late = LateDelivery(
            self._api,
            self._deliveries,
            self.place,
            self._speaking.sent,
            self.delivery_id,
            before_message=self.record.check_owner,
        )
        sent = await late.send(
            messages,
            file,
            self.buttons,
            first=first,
            uncertain=self._sender.may_have_sent,
            by_reply=by_reply,
        )
        self._ids |= sent
        for message_id in sent.values():
            self._speaking.note(message_id)

    async def _fall_silent(self, messages: Sequence[str], first: int) -> Sequence[str]:
        """Let the bot itself say the rest, below the persona's name; return it as it is said then."""
        left = False
        for index in [index for index in self._ids if index >= first]:
            left = not await self._speaking.remove(self._ids.pop(index)) or left
        text = without_address(messages[0])
        if self.name_line and not text.startswith(self.name_line):
            text = self.name_line + text
        text = (_(ANEW) if left and first == 0 else "") + text
        await self._speaking.fall_silent(self.delivery_id, whole=first == 0)
        # Too long only with a name of many signs that must be escaped: then it is left out.
        fits = utf16_length(text) <= MESSAGE_LIMIT
        return [text if fits else without_address(messages[0]), *messages[1:]]
