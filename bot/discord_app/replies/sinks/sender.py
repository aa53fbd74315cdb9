"""Sends the messages of one reply, each of them once.

To edit a message twice does no harm; to send one twice does. So a message that may have been sent already is looked for
first (`sent_messages`). Ephemeral messages cannot be looked for: one is sent as PLACEHOLDER and filled once its id is
recorded, so that a crash in between costs a stray "…" and neither loses nor doubles a text.

Knows records and routes; later edits are up to the sink.
"""

from __future__ import annotations

from collections.abc import Iterable

import discord

from bot.chat.turns.deliveries import DeliveryLog
from bot.discord_app.delivery import sink_errors
from bot.discord_app.message_sink import DeliveryTaken, SinkUnreachable
from bot.discord_app.replies.sinks.message_route import MessageRoute
from bot.discord_app.replies.sinks.sink_record import SinkRecord
from bot.discord_app.replies.webhooks.speaking import Speaking
from bot.discord_app.rest.message_data import Components
from bot.discord_app.rest.request_pace import Turn
from models.types import Place

PLACEHOLDER = "…"


class MessageSender:
    """The sending of one reply. `ids`: its messages, by their position, which the sink shares.

    `uncertain`: another process may have sent messages that it did not record.
    """

    def __init__(
        self,
        deliveries: DeliveryLog,
        speaking: Speaking,
        record: SinkRecord,
        ids: dict[int, int],
        *,
        uncertain: bool,
    ) -> None:
        self._deliveries = deliveries
        self._speaking = speaking
        self._record = record
        self._ids = ids
        self._uncertain = uncertain
        self._attempted: set[int] = set()

    @property
    def _place(self) -> Place:
        return self._speaking.place

    @property
    def _route(self) -> MessageRoute:
        return self._speaking.route

    @property
    def may_have_sent(self) -> bool:
        """Whether any message may be on Discord that no record has."""
        return self._uncertain or bool(self._attempted)

    def is_unsure(self, index: int) -> bool:
        """Whether this message may be on Discord although no record has it."""
        return self._uncertain or index in self._attempted

    async def find(self, index: int, text: str) -> int | None:
        """The message, if it was sent but not recorded: Discord's answer was lost, or the process died."""
        if not self.is_unsure(index) or self._place.by_token_only or (index == 0 and self._route.has_token):
            return None
        found = await self._speaking.sent.find(index, text, self._ids)
        if found is None:
            self._uncertain = False  # they are sent in their order: neither are those after it there
        else:
            self._ids[index] = found
            self._speaking.note(found)
            await self._deliveries.sent(self._record.delivery_id, index, found)
        return found

    async def adopt(self, indexes: Iterable[int]) -> None:
        """Find messages that were about to be sent when their process died, so that they are edited or deleted."""
        for index in indexes:
            if index not in self._ids and not self._place.by_token_only:
                with sink_errors():
                    found = await self._speaking.sent.find(index, None, self._ids)
                if found is not None:
                    self._ids[index] = found
                    self._speaking.note(found)

    async def send(
        self, index: int, text: str, components: Components, file: str | None, turn: Turn | None, *, live: bool
    ) -> None:
        """Send a message that is not on Discord yet. Raises what Discord refuses, SinkUnreachable or DeliveryTaken."""
        self._ids[index] = await self._create(index, text, components, file, turn, live=live)
        self._speaking.note(self._ids[index])

    async def _create(
        self, index: int, text: str, components: Components, file: str | None, turn: Turn | None, *, live: bool
    ) -> int:
        if self._place.application_id is not None and not self._route.has_token:
            raise SinkUnreachable("the interaction's token has expired")
        if index == 0 and self._route.has_token:
            return await self._route.respond(text, components=components, file=file)
        if live:
            await self._deliveries.attempted(self._record.delivery_id, index)
        self._attempted.add(index)
        try:
            message_id = await self._send_or_follow_up(index, text, components, file, turn)
        except discord.HTTPException as error:
            if error.status < 500:
                self._attempted.discard(index)  # refused: it was not sent
            raise
        self._attempted.discard(index)
        return message_id

    async def _send_or_follow_up(
        self, index: int, text: str, components: Components, file: str | None, turn: Turn | None
    ) -> int:
        """Send a message as a reply in the channel, or as a follow-up of the interaction."""
        place, nonce = self._place, f"{self._place.nonce}.{index}"
        if not self._route.has_token:
            question_id = place.question_id if index == 0 else None
            return await self._route.send(
                text, nonce=nonce, reply_to=question_id, components=components, file=file, turn=turn
            )
        hidden = place.by_token_only and self._record.delivery_id != 0
        message_id = await self._route.follow_up(
            PLACEHOLDER if hidden else text,
            nonce=nonce,
            components=() if hidden else components,
            file=None if hidden else file,
        )
        if hidden:
            try:
                await self._record.check_owner()
            except DeliveryTaken:
                await self._route.remove(message_id)  # another process has sent this text meanwhile
                raise
            await self._deliveries.sent(self._record.delivery_id, index, message_id)
            self._ids[index] = message_id
            await self._route.edit(message_id, text, components=components, file=file, turn=None)
        return message_id
