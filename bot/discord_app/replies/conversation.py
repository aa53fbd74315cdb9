"""The one way from a member's question to a shown reply, for every entrance: commands, messages, buttons, reactions.

An entrance makes a `Question`; here it is authorised by the guild's rules, put to the chat service, shown while it
grows and delivered. Errors leave as BotErrors, and the entrance shows them. Knows the sink and the buttons; knows no
object of discord.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from bot.attachments.types import OfferedFile
from bot.chat.chat_reply import ChatReply
from bot.chat.generation import REPETITION
from bot.chat.prompts.speakers import speaker_name
from bot.chat.requests import ChatRequest, PendingTurn, TurnKind
from bot.chat.service import ChatService
from bot.chat.turns.changes import TurnChanges
from bot.chat.turns.deliveries import DeliveryLog
from bot.discord_app.caller import Caller
from bot.discord_app.dialog_keys import DialogKeys
from bot.discord_app.permissions import Action, authorise, persona_scope
from bot.discord_app.replies.buttons import ReplyState, reply_buttons, stop_buttons
from bot.discord_app.replies.quoting import ANEW, heading, small_lines, speaker_line
from bot.discord_app.replies.sinks.sink import ReplySink
from bot.discord_app.replies.streamed_reply import EditRate, ReplyDeleted, StreamedReply
from bot.discord_app.replies.waiting_text import STOPPED, thought_line, waiting_text
from bot.discord_app.replies.webhooks.voices import voice_lines
from bot.discord_app.reply_messages import final_messages
from bot.discord_app.rest.message_api import MessageApi
from bot.failpoint import failpoint
from bot.guilds.bound_threads import BoundThreads
from bot.guilds.settings_cache import GuildSettingsCache
from models.types import (
    DIRECT_MESSAGES,
    DialogKey,
    FileKind,
    GuildSettings,
    OutgoingMessage,
    Place,
    StoredFile,
    TurnInfo,
)

log = structlog.get_logger(__name__)

RETRACTED = "-# Forgotten: what was asked before this was changed."
NOT_SAVED = "-# I could not save this answer yet, so I may not remember it."
REPEATED = "-# I noticed that I was repeating myself, so I stopped here."
CUT_OFF = "length"
"""The finish reason of a reply that can be continued."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a member asks, and where the reply is to be shown.

    `turn` is the turn that a button or reaction belongs to: its reply is written anew, or with kind "new" the turn
    itself is replaced, with all later ones.
    """

    caller: Caller
    place: Place
    text: str = ""
    kind: TurnKind = "new"
    offers: tuple[OfferedFile, ...] = ()
    """Files that came with it, to be read before it is answered."""
    offers_kind: FileKind = "file"
    """ "quoted file" if they belong to the message that is asked about, of `offers_author_id`."""
    offers_author_id: int | None = None
    files: tuple[StoredFile, ...] = ()
    """Texts that are part of it already."""
    quote: bool = False
    """Whether the question stands above the reply: others do not see what was typed into a command."""
    turn: TurnInfo | None = None
    anew: bool = False
    """Whether messages above show an earlier reply to it that they cannot be rid of."""
    replied_to: int | None = None
    """The message that it is a reply to."""
    is_repeat: bool = False
    """Whether the same message was asked before, and its reply was given up because the message was edited."""


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

    async def answer(self, question: Question) -> ChatReply | None:
        """Answer a question and show the reply. None if its message was deleted meanwhile. Raises a BotError."""
        caller = question.caller
        settings = await self.guild_settings.get(caller.guild_id)
        # Again, as the gate may not have known the guild's rules: see `permissions`.
        authorise(caller, Action.REGENERATE if question.kind == "regenerate" else Action.CHAT, settings)
        keys = DialogKeys(self.guild_settings, self.bound_threads)
        key = question.turn.key if question.turn else await keys.key_of(caller, private=question.place.ephemeral)
        question = replace(question, place=await self._with_webhook(question, settings))
        place = question.place
        stop = stop_buttons(caller.user_id, place.nonce)
        sink = ReplySink(
            self.api,
            self.deliveries,
            place,
            stop_buttons=stop,
            on_waiting=lambda: self.deliveries.waiting(key, place, question.turn),
        )
        sink.prefix = (ANEW if question.anew else "") + (heading(place, question.text) if question.quote else "")
        reply = StreamedReply(sink, self.edit_rate, prefix=sink.prefix, num_messages=sink.num_messages)
        request = replace(
            self._request(question, key, settings, sink, reply),
            on_waiting=lambda waiting: reply.announce(lambda: waiting_text(waiting.status(), shared=key.shared)),
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

    def _request(
        self,
        question: Question,
        key: DialogKey,
        settings: GuildSettings,
        sink: ReplySink,
        reply: StreamedReply,
    ) -> ChatRequest:
        continued = ""

        def begun(turn: PendingTurn) -> None:
            nonlocal continued
            continued = turn.prefix or turn.greeting
            sink.record.begin(turn.delivery_id)
            sink.name_line = speaker_line(turn.speaker)
            sink.prefix += voice_lines(question.place, turn.speaker, small_lines(turn.files_note))
            sink.speak_as(turn.speaker)
            reply.begin_with(sink.prefix, continued)

        def thought(seconds: float | None) -> None:
            sink.prefix += thought_line(seconds)
            reply.begin_with(sink.prefix, continued)

        return ChatRequest(
            key=key,
            text=question.text,
            # The id of a repeated message is known already: it would count as a duplicate.
            interaction_id=None if question.is_repeat else question.place.nonce,
            role_turns=role_turns(question.caller, settings),
            author=speaker_name(question.caller.name, self.own_names(key.guild_id)) if key.shared else None,
            name=question.caller.name,
            persona_scope=persona_scope(question.caller, settings, key.user_id),
            offers=question.offers,
            offers_kind=question.offers_kind,
            offers_author_id=question.offers_author_id,
            files=question.files,
            retraction=RETRACTED,
            place=question.place,
            in_place=question.turn is not None and question.kind != "new",
            messages=lambda text, finish_reason: outgoing_messages(_with_note(text, finish_reason), sink.prefix),
            on_begun=begun,
            on_thought=thought,
            turn_id=None if question.turn is None else question.turn.turn_id,
            replied_to=question.replied_to,
        )

    async def _finish(self, place: Place, result: ChatReply, reply: StreamedReply, sink: ReplySink) -> None:
        """Show the final text, with its buttons if it is stored."""
        text = _with_note(result.text, result.finish_reason)
        if not result.saved:
            text = f"{text}\n\n{NOT_SAVED}"
        if result.is_empty and result.finish_reason == "stopped":
            text = STOPPED
        if result.delivery_id:
            sink.buttons = reply_buttons(await self.reply_state(result, place))
        else:
            sink.record.delivery_id = 0
        self.changes.shows_result(result.turn_id)
        await reply.finish(text)
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


def _with_note(text: str, finish_reason: str) -> str:
    """The reply with a note on why it ended. The note is shown, not remembered."""
    return f"{text.rstrip()}\n\n{REPEATED}" if finish_reason == REPETITION and text.strip() else text


def outgoing_messages(text: str, prefix: str = "") -> tuple[OutgoingMessage, ...]:
    """The messages of a finished reply, to be recorded before they are sent. `prefix`: what stands above it."""
    messages, file = final_messages(text, prefix)
    return tuple(
        OutgoingMessage(message, with_file=file is not None and index == len(messages) - 1)
        for index, message in enumerate(messages)
    )


def role_turns(caller: Caller, settings: GuildSettings) -> int | None:
    """The largest daily quota among the member's roles; None if no role has one and the guild's quota applies."""
    quotas = [
        role.daily_turns for role in settings.roles if role.role_id in caller.role_ids and role.daily_turns is not None
    ]
    return max(quotas, default=None)
