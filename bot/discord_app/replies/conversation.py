"""The one way from a member's question to a shown reply, for every entrance: commands, messages, buttons, reactions.

An entrance makes a `Question`; here it is authorised by the guild's rules, put to the chat service, and its reply shown
while it grows and delivered. Errors leave as BotErrors, and the entrance shows them. Knows the sink and the buttons;
knows neither what a request holds nor any object of discord.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import structlog
from structlog.contextvars import bound_contextvars

from bot.chat.chat_reply import ChatReply
from bot.chat.service import ChatService
from bot.chat.turns.changes import TurnChanges
from bot.chat.turns.deliveries import DeliveryLog
from bot.chat.turns.waiting_record import WaitingRecord
from bot.discord_app.dialog_keys import DialogKeys
from bot.discord_app.languages import Languages
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise
from bot.discord_app.replies.buttons import ReplyState, reply_buttons, stop_buttons
from bot.discord_app.replies.chat_request import chat_request
from bot.discord_app.replies.final_text import CUT_OFF, final_text
from bot.discord_app.replies.question import Question
from bot.discord_app.replies.quoting import ANEW, heading
from bot.discord_app.replies.sinks.sink import ReplySink
from bot.discord_app.replies.streamed_reply import EditRate, StreamedReply
from bot.discord_app.replies.waiting_text import waiting_text
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import ReplyDeleted
from bot.failpoint import failpoint
from bot.guilds.bound_threads import BoundThreads
from bot.guilds.settings.settings_cache import GuildSettingsCache
from bot.i18n.language import gettext as _
from bot.i18n.language import use_language
from bot.safety.content import ContentFilters
from bot.telemetry.tracing import message_span, span
from models.types import DIRECT_MESSAGES, DialogKey, GuildSettings, Place

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RunningReply:
    """A reply that is being written: whose, by which task, and where it is shown."""

    key: DialogKey
    asker_id: int
    task: asyncio.Task[object] | None
    sink: ReplySink
    is_repeat: bool = False
    keep_messages: bool = False
    """Set before the task is cancelled, if another reply takes over the messages."""


@dataclass(slots=True)
class Conversations:
    """Answers questions. One for the whole bot."""

    chat: ChatService
    deliveries: DeliveryLog
    guild_settings: GuildSettingsCache
    bound_threads: BoundThreads
    api: MessageApi
    languages: Languages
    filters: ContentFilters
    own_names: Callable[[int], tuple[str, ...]] = lambda guild_id: ()
    """The bot's names in a guild, which no member has in a prompt."""
    takes_threads: Callable[[int, int], bool] = lambda guild_id, channel_id: False
    """Whether threads can be started in this channel of a guild."""
    edit_rate: EditRate = field(default_factory=EditRate)
    running: dict[int, RunningReply] = field(default_factory=dict)
    """The replies that are being written, by the interaction or message that asked."""
    retracted: asyncio.Event = field(default_factory=asyncio.Event)
    """Wakes `bot.cogs.unfinished_replies`, which marks the messages of forgotten replies."""
    changes: TurnChanges = field(default_factory=TurnChanges)

    async def answer(self, question: Question, record: WaitingRecord | None = None) -> ChatReply | None:
        """Answer a question and show the reply. None if its message was deleted meanwhile. Raises a BotError.

        What stands around the reply is in the language of those who see it. `record`: of a question that was recorded
        before it was acknowledged.
        """
        guild_id = question.caller.guild_id or DIRECT_MESSAGES
        with (
            bound_contextvars(guild=guild_id),
            message_span(guild=guild_id, kind=question.kind),
            use_language(await self.languages.of_place(question.place)),
        ):
            return await self._answer(question, record)

    async def _answer(self, question: Question, record: WaitingRecord | None) -> ChatReply | None:
        caller = question.caller
        settings = await self.guild_settings.get(caller.guild_id)
        # Again, as the gate may not have known the guild's rules: see `permissions.gate`.
        authorise(caller, Action.REGENERATE if question.kind == "regenerate" else Action.CHAT, settings)
        keys = DialogKeys(self.guild_settings, self.bound_threads)
        key = question.turn.key if question.turn else await keys.key_of(caller, private=question.place.ephemeral)
        limits = self.guild_settings.limits_for(caller.guild_id, settings, caller.role_ids)
        question = replace(question, place=await self._with_webhook(question, settings))
        place = question.place
        stop = stop_buttons(caller.user_id, place.nonce)
        sink = ReplySink(
            self.api,
            self.deliveries,
            place,
            stop_buttons=stop,
            on_waiting=partial(self.deliveries.waiting, key, place, question.turn) if record is None else None,
            record=record,
        )
        sink.prefix = (_(ANEW) if question.anew else "") + (heading(place, question.text) if question.quote else "")
        reply = StreamedReply(sink, self.edit_rate, prefix=sink.prefix, num_messages=sink.num_messages)
        request = replace(
            chat_request(question, key, settings, limits, self.filters.of(settings), sink, reply, self.own_names),
            on_waiting=lambda waiting: reply.announce(
                lambda: waiting_text(waiting.status(), shared=key.shared, is_written=not reply.grows)
            ),
        )
        running = RunningReply(key, caller.user_id, asyncio.current_task(), sink, question.is_repeat)
        self.running[place.nonce] = running
        stored = False
        try:
            generate = {
                "new": self.chat.chat, "regenerate": self.chat.regenerate, "continue": self.chat.continue_reply,
            }[question.kind]  # fmt: skip
            result = await generate(request, reply.push)
            self.running.pop(place.nonce, None)
            stored = bool(result.delivery_id)
            if result.is_empty and question.turn is not None:
                await reply.cancel()  # the caller shows the reply that the turn had before
            else:
                with bound_contextvars(turn=result.turn_id), span("deliver"):
                    await self._finish(place, result, reply, sink)
        except ReplyDeleted as deleted:
            await reply.cancel()
            await self.deliveries.shown(sink.delivery_id, [], done=True)
            log.info("no final text", question=place.nonce, reason=deleted.reason)
            return None
        except BaseException:
            await reply.cancel()
            if stored:  # what is not shown yet is left to the job that finishes deliveries
                await self.deliveries.release(sink.delivery_id)
            elif not running.keep_messages:
                await self._take_back(question, sink)
            raise
        finally:
            self.running.pop(place.nonce, None)
            await sink.record.end_waiting()
        if question.turn is not None and question.kind == "new":
            self.retracted.set()
        return result

    async def _with_webhook(self, question: Question, settings: GuildSettings) -> Place:
        """The place with the webhook through which a persona may speak there: where a message asked, if it works."""
        caller, place = question.caller, question.place
        by_message = place.question_id is not None and place.application_id is None
        if settings.persona_face != "webhook" or not by_message or question.turn is not None or place.webhook_id:
            return place
        if caller.guild_id == DIRECT_MESSAGES:
            return place
        webhook = await self.api.webhooks.speaking_in(caller.guild_id, caller.parent_id, in_thread=caller.in_thread)
        return place if webhook is None else replace(place, webhook_id=webhook.webhook_id)

    async def _take_back(self, question: Question, sink: ReplySink) -> None:
        """Delete what was shown of a reply that failed. The response to a command stays: it will show the error."""
        if question.turn is not None:
            return  # these messages showed an earlier reply, to which the caller returns
        if question.place.reply_token is None:
            await sink.delete_all()
        else:
            await sink.clear()

    async def _finish(self, place: Place, result: ChatReply, reply: StreamedReply, sink: ReplySink) -> None:
        """Show the final text, with its buttons if it is stored."""
        if result.delivery_id:
            sink.buttons = reply_buttons(await self.reply_state(result, place))
        else:
            sink.record.delivery_id = 0
        self.changes.shows_result(result.turn_id)
        await reply.finish(final_text(result))
        failpoint("after_final_edit")

    async def reply_state(self, result: ChatReply, place: Place) -> ReplyState:
        """What the buttons under a stored reply show."""
        position, count = 1, 1
        if result.regenerated:
            turn = await self.chat.turns.turn(result.turn_id)
            position, count = (turn.position, turn.num_variants) if turn else (1, 1)
        cut_off = result.finish_reason == CUT_OFF
        return ReplyState(result.turn_id, len(result.text), cut_off, position, count, self.may_have_thread(place))

    def may_have_thread(self, place: Place) -> bool:
        """Whether a thread can be started under a message in this place."""
        return not place.ephemeral and self.takes_threads(place.guild_id, place.channel_id)
