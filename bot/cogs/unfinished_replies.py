"""Shows the rest of replies that a crashed process left unfinished, and says of those it never finished what happened.

A stored reply whose messages were not all shown gets the others, exactly once. A reply that was lost while it was
written is replaced by INTERRUPTED; another reply to an earlier turn, by the one that the turn still has. What a living
process could not show, since Discord was away, is tried again after growing pauses. Two processes never finish the same
delivery: one takes it first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog
from discord.ext import commands

from bot.discord_app.error_messages import log_database_errors
from bot.discord_app.message_sink import MessageDeleted, SinkUnreachable
from bot.discord_app.replies.buttons import reply_buttons
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.quoting import address_line, speaker_line
from bot.discord_app.replies.sinks.sink import ReplySink
from bot.discord_app.replies.streamed_reply import StreamedReply
from bot.discord_app.replies.turn_actions import TurnActions, place_in, state_of, stored_heading
from bot.discord_app.rest.request_pace import Urgency
from bot.errors import ReplyDeleted
from bot.i18n.language import N_, use_language
from bot.i18n.language import gettext as _
from models.database import Database
from models.errors import DatabaseError
from models.queries.replies.deliveries import is_told_elsewhere
from models.queries.replies.unfinished_deliveries import take_delivery, unfinished_deliveries
from models.types import DIRECT_MESSAGES, DeliveryRecord, Place, TurnInfo

log = structlog.get_logger(__name__)

LOST_PLACE = N_("I was restarted before I came to your message. Please ask again.")
INTERRUPTED = N_("I was restarted while I was writing this answer. Please ask again.")
# Seconds before each attempt: shortly after the start another process may crash, or the database may come back.
_DELAYS = (0.0, 5.0)
_INTERVAL = 10.0  # seconds between the later ones: what another process left half said is ended within a minute
_AT_ONCE = 8
"""Deliveries that are finished at the same time. Discord's limits are for each channel and token."""
_APOLOGY_WITHIN = timedelta(minutes=15)
"""After this time a lost reply gets no apology."""
_GUILD_WITHIN = 10.0
"""Seconds that the first attempt waits for the gateway to tell of a guild, and with it of the guild's language."""


class UnfinishedReplies(commands.Cog):
    """Finishes deliveries of dead processes while the bot runs. Logs failures and tries again."""

    def __init__(
        self,
        bot: commands.Bot,
        conversations: Conversations,
        database: Database,
        responsible: Callable[[int], bool] = lambda guild_id: True,
    ) -> None:
        """`responsible`: whether this connection looks after a guild; of several in one process exactly one does."""
        self._bot = bot
        self._responsible = responsible
        self._conversations = conversations
        self._actions = TurnActions(conversations)
        self._database = database
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    async def cog_load(self) -> None:
        """Start looking for unfinished replies, in the background."""
        self._task = asyncio.create_task(self._finish_all(), name="unfinished-replies")

    async def cog_unload(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()

    async def _finish_all(self) -> None:
        for seconds in itertools.chain(_DELAYS, itertools.repeat(_INTERVAL)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._conversations.retracted.wait()
            self._conversations.retracted.clear()
            found = await self._unfinished()
            if found:
                await asyncio.gather(*(self._finish_or_log(delivery) for delivery in found))

    async def _unfinished(self) -> tuple[DeliveryRecord, ...]:
        found: tuple[DeliveryRecord, ...] = ()
        with log_database_errors("find unfinished replies"):
            try:
                await self._conversations.deliveries.retry()
            except DatabaseError as error:
                log.info("what was shown could not be recorded yet", error=type(error).__name__)
            async with self._database.read() as session:
                found = await unfinished_deliveries(session, now=datetime.now(UTC))
        return tuple(delivery for delivery in found if self._responsible(delivery.place.guild_id))

    async def _finish_or_log(self, delivery: DeliveryRecord) -> None:
        await self._until_known(delivery.place.guild_id)
        async with self._slots:
            if not self._responsible(delivery.place.guild_id):
                return  # its shard has come to another connection meanwhile
            try:
                with use_language(await self._conversations.languages.of_place(delivery.place)):
                    await self._finish(delivery)
            except Exception as error:
                log.warning("an unfinished reply could not be shown", turn=delivery.turn_id, error=type(error).__name__)

    async def _until_known(self, guild_id: int) -> None:
        """Wait for the guild: the first attempt comes before the gateway has told of any."""
        guild = self._bot.get_guild(guild_id)
        if guild_id == DIRECT_MESSAGES or self._bot.is_ready() or (guild is not None and not guild.unavailable):
            return
        with contextlib.suppress(TimeoutError):
            await self._bot.wait_for("guild_available", check=lambda each: each.id == guild_id, timeout=_GUILD_WITHIN)

    async def _finish(self, delivery: DeliveryRecord) -> None:
        if delivery.turn_id is None:
            await self._take(delivery, lambda: self._show_without_turn(delivery))
            return
        turn = await self._conversations.chat.turns.turn(delivery.turn_id)
        if turn is None or turn.status == "pending":
            return  # deleted meanwhile, or not yet known to be interrupted: see bot/chat/recovery.py
        with self._conversations.changes.try_hold(turn.turn_id) as free:
            if not free:
                return  # a button was pressed just now
            await self._take(delivery, lambda: self._show(turn, delivery))

    async def _take(self, delivery: DeliveryRecord, show: Callable[[], Awaitable[None]]) -> None:
        """Take over the delivery and show it, unless another process has it. A failure leaves it to a later attempt."""
        taken = await self._database.run(
            lambda session: take_delivery(session, delivery_id=delivery.delivery_id, owner=delivery.owner)
        )
        if not taken:
            return
        try:
            await show()
        except (ReplyDeleted, MessageDeleted):
            await self._conversations.deliveries.shown(delivery.delivery_id, [], done=True)
        except BaseException:
            await self._conversations.deliveries.release(delivery.delivery_id)
            raise

    async def _sink(self, delivery: DeliveryRecord) -> tuple[Place, ReplySink]:
        """The place and the sink of a delivery, with the messages that exist already."""
        place = replace(delivery.place, message_ids=tuple(message.message_id for message in delivery.messages))
        sink = ReplySink(self._conversations.api, self._conversations.deliveries, place, uncertain=True)
        sink.record.delivery_id = delivery.delivery_id
        # Messages that were about to be sent, and whose text is not the final one.
        unsure = [index for index, each in enumerate(delivery.messages) if each.message_id is None and not each.text]
        await sink.adopt(unsure)
        return place, sink

    async def _show_without_turn(self, delivery: DeliveryRecord) -> None:
        """Apologise for a question that never came to its turn, or mark a forgotten reply as forgotten."""
        if delivery.state == "writing":
            async with self._database.read() as session:
                told = await is_told_elsewhere(session, delivery_id=delivery.delivery_id, nonce=delivery.place.nonce)
            if told:
                await self._conversations.deliveries.waits_no_more(delivery.delivery_id)
                return
        place, sink = await self._sink(delivery)
        if delivery.state == "writing":
            if place.reply_token is None:
                await self._apologise(delivery, place, sink, _(LOST_PLACE))
            else:
                await self._say_by_token(delivery, sink, _(LOST_PLACE))
            return
        for index, message in reversed(list(enumerate(delivery.messages))):
            if not message.text:
                await sink.delete(index)
        try:
            async with sink.turn(0, Urgency.FINAL) as turn:
                await sink.show(0, delivery.messages[0].text, live=False, last=True, turn=turn)
        except SinkUnreachable:  # the bot may not write there any more
            await self._conversations.deliveries.shown(delivery.delivery_id, [], done=True)

    async def _say_by_token(self, delivery: DeliveryRecord, sink: ReplySink, text: str) -> None:
        """Say this in the response to an interaction, if there is one.

        Its process may have died before it acknowledged: then Discord has told the member that nothing came, and a
        plain message would come on top of that.
        """
        try:
            await sink.show(0, text, live=False, last=True)
        except SinkUnreachable:
            await self._conversations.deliveries.shown(delivery.delivery_id, [], done=True)

    async def _show(self, turn: TurnInfo, delivery: DeliveryRecord) -> None:
        place, sink = await self._sink(delivery)
        if turn.status == "done" and turn.reply is not None:
            if delivery.state == "ready":
                await self._show_rest(turn, delivery, place, sink)
            else:
                await self._actions.show(turn, delivery, place, sink=sink)
        elif (replaced := await self._replaced(turn)) is not None:
            earlier = await self._conversations.chat.turns.delivery(replaced)
            there = place_in(earlier, replace(place, message_ids=()))
            await self._actions.show(replaced, earlier, replace(there, message_ids=sink.ordered_ids))
            await self._conversations.deliveries.shown(delivery.delivery_id, [], done=True)
        else:
            await self._apologise(delivery, place, sink, _(INTERRUPTED))

    async def _replaced(self, turn: TurnInfo) -> TurnInfo | None:
        """The turn that was to be replaced by one whose reply never came: it still stands."""
        earlier = None if turn.replaces_id is None else await self._conversations.chat.turns.turn(turn.replaces_id)
        return earlier if earlier is not None and earlier.reply is not None else None

    async def _show_rest(self, turn: TurnInfo, delivery: DeliveryRecord, place: Place, sink: ReplySink) -> None:
        """Show what has not been shown of a stored reply."""
        sink.prefix, sink.name_line = stored_heading(turn, place), speaker_line(turn.speaker)
        sink.speak_as(turn.speaker)
        sink.buttons = reply_buttons(state_of(turn, self._conversations.may_have_thread(place)))
        for index, message in enumerate(delivery.messages):
            if not message.shown and not message.text:
                await sink.delete(index)
        wanted = [message for message in delivery.messages if message.shown or message.text]
        first = next((index for index, message in enumerate(wanted) if not message.shown), len(wanted))
        if first == len(wanted):
            await self._conversations.deliveries.shown(delivery.delivery_id, [], done=True)
            return
        file = turn.reply if wanted[-1].with_file else None
        reply = self._reply(sink)
        await reply.finish_messages([message.text for message in wanted[first:]], file, first=first)

    async def _apologise(self, delivery: DeliveryRecord, place: Place, sink: ReplySink, text: str) -> None:
        """Say that the reply was lost, where its beginning or "thinking…" is, or as a reply to the question."""
        too_late = datetime.now(UTC) - delivery.created_at > _APOLOGY_WITHIN
        if too_late and (place.application_id is not None or not sink.message_ids):
            if not place.ephemeral:
                await sink.delete_all()  # what it had begun to say is no answer
            await self._conversations.deliveries.shown(delivery.delivery_id, [], done=True)
            return
        if place.webhook_name and not sink.message_ids:  # the bot itself can reply to the question
            own = replace(place, webhook_id=None, webhook_name="")
            sink = ReplySink(self._conversations.api, self._conversations.deliveries, own, uncertain=True)
            sink.record.delivery_id = delivery.delivery_id
        await self._reply(sink).finish(address_line(sink.place) + text if sink.place.webhook_id else text)

    def _reply(self, sink: ReplySink) -> StreamedReply:
        return StreamedReply(sink, self._conversations.edit_rate, num_messages=sink.num_messages)
