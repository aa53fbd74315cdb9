"""The use case of a chat turn: a member says something, the model answers, and both sides are stored as one turn.

Two short transactions (`bot.chat.turn_log`) enclose a generation that holds no database connection: the begin
transaction opens the turn and reads the snapshot that the prompt is built from, the finish transaction stores the
reply. It commits before the reply is returned, so what a front-end shows as final is in the database, unless `saved`
or `remembered` says otherwise. Knows no Discord, no SQL and no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from bot.attachments.reader import FileReader
from bot.attachments.types import FileLimits
from bot.chat.files.intake import FileIntake
from bot.chat.files.recent_images import RecentImages
from bot.chat.generation import OnDelta, ReplyGenerator
from bot.chat.prompt import select_pairs
from bot.chat.prompt_fit import GenerationRequest
from bot.chat.queue.admission import AdmissionControl
from bot.chat.queue.refusal import WaitingMessage, WaitingMessages
from bot.chat.queue.wait_estimate import MeasuredReply, WaitEstimate
from bot.chat.queue.waiting import Waiting
from bot.chat.reply_control import ReplyControl
from bot.chat.requests import ChatRequest, Messages, PendingTurn, TurnKind
from bot.chat.speakers import said, system_prompt
from bot.chat.stop_requests import StopRequests
from bot.chat.turn_log import TurnLog
from bot.engine_client.client import EngineClient
from bot.engine_client.messages import image_part
from bot.engine_client.pseudonyms import Pseudonyms
from bot.errors import BotError, EmptyMessage, MessageTooLong, NulCharacters, ShuttingDown
from bot.failpoint import failpoint
from bot.keyed_locks import KeyedLocks
from bot.settings import Settings
from bot.storage import translate_database_errors
from bot.text import clean_text, has_nul
from models import queries
from models.database import Database
from models.queries.deliveries import delivery_of_turn, turn_of_message
from models.queries.resets import end_dialogs_everywhere
from models.queries.turn_info import turn_info
from models.types import DeliveryRecord, DialogKey, Pair, Place, StopRequester, TurnInfo, UndoneReset

__all__ = ["UNDO_WITHIN", "ChatReply", "ChatRequest", "ChatService", "Reset"]

UNDO_WITHIN = timedelta(minutes=10)
"""How long a reset can be undone."""
_REMEMBERED_DIALOGS = 10_000


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply as a front-end shows it.

    `saved` is False if the database could not be written: the reply is shown, but missing from the history.
    `remembered` is also False if the dialog was reset meanwhile, or if the model generated no text: the history
    contains only whole pairs.
    """

    text: str
    turn_id: int
    delivery_id: int
    """The record of what is to be shown of it; 0 if there is none."""
    regenerated: bool
    """Whether the turn had a reply before."""
    finish_reason: str
    remembered: bool
    saved: bool
    prompt_tokens: int
    completion_tokens: int
    pairs_in_prompt: int
    is_empty: bool = False
    """Whether nothing was generated; with the finish reason "stopped", because the member did not wait for it."""


@dataclass(frozen=True, slots=True)
class Reset:
    """What a reset ended: dialogs in which something was said, and their pairs. `at` names it, to undo it."""

    at: datetime
    dialogs: int
    pairs: int


def reset_error(*, shared: bool) -> Callable[[], BotError]:
    """What a message is told that waited when its dialog was reset."""
    who = "This conversation was" if shared else "You"
    text = f"{who} reset{'' if shared else ' our conversation'} before I came to this message. Please ask again."
    return lambda: BotError(text)


class ChatService:
    """Serves many dialogs concurrently, and the messages of one dialog in order of arrival."""

    def __init__(self, *, database: Database, engine: EngineClient, settings: Settings) -> None:
        self._database = database
        self._engine = engine
        self._settings = settings
        self._turns = TurnLog(database, settings)
        self._generator = ReplyGenerator(engine, settings)
        self.file_reader = FileReader(FileLimits.of(settings), settings.discord_cdn_url)
        """The one reader of members' files: its limits hold for all of them together."""
        self._intake = FileIntake(self.file_reader, engine, settings)
        self._images = RecentImages()
        self._pseudonyms = Pseudonyms(settings)
        self._locks: KeyedLocks[DialogKey] = KeyedLocks()
        self._waiting = WaitingMessages()
        self._admission = AdmissionControl(settings.max_waiting)
        self._wait_estimate = WaitEstimate()
        self._running: dict[DialogKey, ReplyControl] = {}
        self._stops = StopRequests(database)
        self._in_flight: set[asyncio.Future[None]] = set()
        self._closing = False
        # The first turn of each dialog's last prompt (see prompt.select_pairs). Losing one costs a prefix hit.
        self._first_kept: OrderedDict[int, int] = OrderedDict()

    async def chat(self, request: ChatRequest, on_delta: OnDelta) -> ChatReply:
        """Reply to a message, passing each piece to `on_delta`.

        Raises a BotError, or what `on_delta` raised. The turn is then not in the history.
        """
        has_files = bool(request.offers) or any(file.kind == "file" for file in request.files)
        text = self._validated(request.text, may_be_empty=has_files)
        return await self._serve(replace(request, text=text), "new", on_delta)

    async def regenerate(self, request: ChatRequest, on_delta: OnDelta) -> ChatReply:
        """Generate another reply to `request.turn_id`, or to the last message of this dialog.

        The history contains the present reply until the new one is stored; after that it is kept as a variant.
        Raises NothingToRegenerate, or what `chat` raises.
        """
        return await self._serve(request, "regenerate", on_delta)

    async def continue_reply(self, request: ChatRequest, on_delta: OnDelta) -> ChatReply:
        """Go on with the reply of `request.turn_id`, which the length limit cut. Only the new text goes to `on_delta`.

        Raises NothingToRegenerate, or what `chat` raises.
        """
        return await self._serve(request, "continue", on_delta)

    async def _serve(self, request: ChatRequest, kind: TurnKind, on_delta: OnDelta) -> ChatReply:
        """Wait for the dialog's earlier messages, then run a turn."""
        if self._closing:
            raise ShuttingDown()
        dialog = request.key.dialog
        control = ReplyControl(self._settings.reply_timeout)
        measured: MeasuredReply | None = None
        async with contextlib.AsyncExitStack() as stack:
            slot = stack.enter_context(self._admission.admit(_member(request.key), dialog))
            stack.enter_context(self._counted_as_in_flight())
            asked_by = request.place.nonce if request.place else request.interaction_id
            stack.enter_context(self._stops.stoppable(asked_by, request.key, control))
            message = await stack.enter_async_context(self._waiting.entered(dialog))
            waiting = Waiting(slot, self._wait_estimate, lambda: self._engine.state == "loading")
            request.on_waiting(waiting)
            async with control.queue_scope():
                await message.wait(stack.enter_async_context(self._locks.hold(dialog)))
            if self._closing:
                raise ShuttingDown()
            if control.reason == "stopped":
                return _STOPPED_IN_QUEUE
            waiting.behind_own = False
            self._running[dialog] = control

            async def measured_on_delta(piece: str) -> None:
                nonlocal measured
                if measured is None:
                    slot.release()
                    measured = self._wait_estimate.first_token(dialog)
                else:
                    measured.token()
                await on_delta(piece)

            failed = True
            try:
                reply = await self._run_turn(request, kind, measured_on_delta, control, message)
                failed = False
                return reply
            finally:
                if measured is not None:
                    measured.end(failed=failed)
                del self._running[dialog]

    async def reset(self, key: DialogKey) -> Reset:
        """End the dialog. A running reply is still shown, but not remembered; the messages that wait are refused."""
        self.refuse_waiting(key, reset_error(shared=key.shared))
        now = _now()
        with translate_database_errors():
            pairs = await self._database.run(lambda session: queries.end_dialog(session, key=key, now=now))
        return Reset(now, 1 if pairs else 0, pairs)

    async def reset_everywhere(self, user_id: int) -> Reset:
        """End all dialogs of this person's own, in every guild and in direct messages, as `reset` does."""
        self._waiting.refuse(lambda key: not key.shared and key.user_id == user_id, reset_error(shared=False))
        now = _now()
        with translate_database_errors():
            counts = await self._database.run(lambda session: end_dialogs_everywhere(session, user_id=user_id, now=now))
        return Reset(now, counts.dialogs, counts.pairs)

    async def undo_reset(self, key: DialogKey, reset_at: datetime | None = None) -> UndoneReset | None:
        """Undo the reset made at this time, or the last one. None if it is too long ago, or if there is none.

        What was begun since is kept as a conversation of its own.
        """
        now = _now()
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.undo_reset(
                    session, key=key, since=now - UNDO_WITHIN, reset_at=reset_at, now=now
                )
            )

    def refuse_waiting(self, key: DialogKey, error: Callable[[], BotError]) -> None:
        """Refuse the messages of this dialog that wait for an earlier reply: they were meant for what it was before."""
        self._waiting.refuse(lambda dialog: dialog == key.dialog, error)

    async def forget(self, key: DialogKey, count: int, *, own_only: bool = False) -> int:
        """Delete at most the last `count` pairs of the open dialog, and return how many were deleted.

        `own_only`: of a shared dialog, those that the member asked for.
        """
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.forget_last(session, key=key, count=count, own_only=own_only)
            )

    async def stop(self, key: DialogKey) -> bool:
        """Stop the running reply of this dialog and keep what was generated. False if none is running."""
        control = self._running.get(key.dialog)
        return control is not None and control.interrupt("stopped")

    async def turn(self, turn_id: int) -> TurnInfo | None:
        """A stored turn, or None if it is gone. Whoever acts on it checks whose it is."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await turn_info(session, turn_id=turn_id)

    async def forget_turn(self, turn: TurnInfo) -> bool:
        """Delete one turn with all its replies. False if it is gone, or still waits for its reply."""
        self._images.forget(turn.turn_id)
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.forget_turn(session, key=turn.key, turn_id=turn.turn_id)
            )

    async def select_variant(self, turn: TurnInfo, position: int, messages: Messages, place: Place) -> bool:
        """Make another reply of a turn the one that is remembered. False if there is none at this position.

        `place`: the messages that show the present one, and how they can be reached.
        """
        now = _now()
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.select_variant(
                    session,
                    key=turn.key,
                    turn_id=turn.turn_id,
                    position=position,
                    messages=messages,
                    place=place,
                    now=now,
                )
            )

    async def delivery(self, turn: TurnInfo) -> DeliveryRecord | None:
        """Where the reply of a turn is shown."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await delivery_of_turn(session, key=turn.key, turn_id=turn.turn_id)

    async def turn_of_message(self, message_id: int) -> TurnInfo | None:
        """The turn whose reply a message on Discord shows."""
        with translate_database_errors():
            async with self._database.read() as session:
                turn_id = await turn_of_message(session, message_id=message_id)
                return None if turn_id is None else await turn_info(session, turn_id=turn_id)

    async def stop_reply(self, interaction_id: int, by: StopRequester) -> bool:
        """Stop the reply to this interaction and keep what was generated, also if another process of the bot writes it.

        False if no process writes it any more; that may take some seconds to find out. Raises NotTheAsker.
        """
        with translate_database_errors():
            return await self._stops.stop(interaction_id, by)

    async def history(self, key: DialogKey, limit: int) -> tuple[Pair, ...]:
        """The last `limit` pairs of the open dialog, oldest first."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.history(session, key=key, limit=limit)

    async def recover(self) -> None:
        """Store replies that could not be saved and end turns that nobody works on, once the database is back.

        For a job that runs every minute. Raises DatabaseUnavailable.
        """
        with translate_database_errors():
            await self._turns.recover()

    async def close(self, grace: float) -> None:
        """Refuse new messages, wait `grace` seconds for the running replies, then interrupt them."""
        self._closing = True
        if self._in_flight and grace > 0:
            await asyncio.wait(self._in_flight, timeout=grace)
        for control in self._running.values():
            control.interrupt("shutdown")
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=10)
        await self._stops.close()
        await self.file_reader.close()
        await self._turns.close()

    def _validated(self, text: str, *, may_be_empty: bool) -> str:
        limit = self._settings.max_message_chars
        if has_nul(text):
            raise NulCharacters("message")
        text = clean_text(text)
        if not text and not may_be_empty:
            raise EmptyMessage()
        if len(text) > limit:
            raise MessageTooLong(limit, len(text))
        return text

    @contextlib.contextmanager
    def _counted_as_in_flight(self) -> Iterator[None]:
        done = asyncio.get_running_loop().create_future()
        self._in_flight.add(done)
        try:
            yield
        finally:
            self._in_flight.discard(done)
            done.set_result(None)

    async def _run_turn(
        self,
        request: ChatRequest,
        kind: TurnKind,
        on_delta: OnDelta,
        control: ReplyControl,
        message: WaitingMessage,
    ) -> ChatReply:
        if kind == "new":
            request = await self._intake.take(request)
        turn = self._with_images(await self._turns.begin(request, kind), request)
        failpoint("after_begin_turn")
        request.on_begun(turn)
        try:
            message.begin()
            reply = await self._generator.generate(self._generation_request(turn), on_delta, control)
        except BaseException as error:
            await self._turns.fail(turn, error)
            raise
        saved, remembered = await self._turns.finish(turn, reply)
        return ChatReply(
            text=turn.reply + reply.text if kind == "continue" else reply.text,
            turn_id=turn.turn_id,
            delivery_id=turn.delivery_id if saved and remembered else 0,
            regenerated=not turn.is_new,
            finish_reason=reply.finish_reason,
            remembered=remembered,
            saved=saved,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            pairs_in_prompt=reply.pairs_in_prompt,
            is_empty=not reply.text.strip(),
        )

    def _with_images(self, turn: PendingTurn, request: ChatRequest) -> PendingTurn:
        """The turn with its pictures: its own, or those of the turn whose reply or words change, if still there."""
        images = request.images
        if not images and not request.offers:
            images = self._images.of(request.turn_id if turn.is_new else turn.turn_id)
        if turn.is_new:
            self._images.keep(turn.turn_id, images)
        return replace(turn, images=images)

    def _generation_request(self, turn: PendingTurn) -> GenerationRequest:
        limit = _capped(turn.settings.max_chat_logs, self._settings.max_chat_logs)
        first_kept = self._first_kept.pop(turn.dialog_id, None)
        pairs = select_pairs(turn.history, limit, self._settings.trim_step, first_kept)
        if pairs and turn.dialog_id:  # 0: another dialog each time
            self._first_kept[turn.dialog_id] = pairs[0].turn_id
            if len(self._first_kept) > _REMEMBERED_DIALOGS:
                self._first_kept.popitem(last=False)
        persona = self._settings.persona if turn.persona is None else turn.persona.prompt
        taken = () if turn.persona is None or not turn.persona.name else (turn.persona.name,)
        return GenerationRequest(
            persona=system_prompt(persona, shared=turn.key.shared),
            history=[replace(pair, user=said(pair.user, pair.author, pair.files, taken)) for pair in pairs],
            text=turn.text,
            author=turn.author,
            taken=taken,
            files=turn.files,
            images=tuple(image_part(image.media_type, image.data) for image in turn.images),
            prefix=turn.reply if turn.kind == "continue" else "",
            user=self._pseudonyms.user(turn.key),
            cache_salt=self._pseudonyms.cache_salt(turn.key),
            max_reply_tokens=_capped(turn.settings.max_reply_tokens, self._settings.max_reply_tokens),
        )


_STOPPED_IN_QUEUE = ChatReply(
    text="",
    turn_id=0,
    delivery_id=0,
    regenerated=False,
    finish_reason="stopped",
    remembered=False,
    saved=True,
    prompt_tokens=0,
    completion_tokens=0,
    pairs_in_prompt=0,
    is_empty=True,
)
"""The reply to a message that was stopped behind an earlier one of its dialog: nothing was stored of it."""


def _member(key: DialogKey) -> DialogKey:
    """The key of admission: one member of one guild, however many channels they have dialogs in."""
    return DialogKey(key.guild_id, key.user_id)


def _capped(chosen: int | None, limit: int) -> int:
    """What the guild chose, but at most the operator's limit, which may have been lowered since."""
    return limit if chosen is None else min(limit, chosen)


def _now() -> datetime:
    return datetime.now(UTC)
