"""The use case of a chat turn: a member says something, the model answers, and both sides are stored as one turn.

A message waits here for its turn: for a place in the queue, its dialog's earlier messages, the limits, the engine. What
then happens is `turn_runner`'s. Knows no Discord, no SQL and no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from bot.attachments.reader import FileReader
from bot.attachments.types import FileLimits
from bot.chat.chat_reply import STOPPED_IN_QUEUE, ChatReply
from bot.chat.dialog_changes import DialogChanges
from bot.chat.files.intake import FileIntake
from bot.chat.files.recent_images import RecentImages
from bot.chat.queue.admission import AdmissionControl
from bot.chat.queue.limiter import Limiter, guild_key, member_key
from bot.chat.queue.refusal import WaitingMessages
from bot.chat.queue.sending import Sending
from bot.chat.queue.wait_estimate import WaitEstimate
from bot.chat.queue.waiting import Waiting, WaitingInfo, WaitStatus
from bot.chat.reply.live_filter import LiveFilter, OnDelta
from bot.chat.reply.reply_control import ReplyControl
from bot.chat.reply.reply_progress import ReplyProgress
from bot.chat.requests import ChatRequest, TurnKind
from bot.chat.stop_requests import StopRequests
from bot.chat.turn_meter import TurnMeter
from bot.chat.turn_runner import TurnRunner
from bot.chat.turns.stored_turns import StoredTurns
from bot.chat.turns.turn_log import TurnLog
from bot.engine_client.engine import Engine
from bot.engine_client.model_list import ModelList
from bot.engine_client.pseudonyms import Pseudonyms
from bot.errors import EmptyMessage, MessageTooLong, NulCharacters, ShuttingDown
from bot.keyed_locks import KeyedLocks
from bot.memory.quiet import QuietTime
from bot.settings import Settings
from bot.settings.listed_models import DEFAULT_MODEL
from bot.storage import translate_database_errors
from bot.telemetry.tracing import span
from bot.text import clean_text, has_nul
from models.database import Database
from models.types import DialogKey, StopRequester

_Lane = tuple[str, int]
"""A model, and the number of the server among those that have it."""


class ChatService:
    """Serves many dialogs concurrently, and the messages of one dialog in order of arrival."""

    def __init__(self, *, database: Database, engine: Engine | ModelList, settings: Settings) -> None:
        """`engine`: the only model, or all that guilds may choose."""
        self.models = ModelList.of(engine)
        self._settings = settings
        self._turns = TurnLog(database, settings)
        self.file_reader = FileReader(FileLimits.of(settings), settings.discord_cdn_url)
        """The one reader of members' files: its limits hold for all of them together."""
        self.quiet = QuietTime()
        """When no reply is written or waited for."""
        self._locks: KeyedLocks[DialogKey] = KeyedLocks()
        self._waiting = WaitingMessages()
        self.dialogs = DialogChanges(database, self._waiting)
        """Resets, and pairs that are forgotten."""
        images = RecentImages()
        self.turns = StoredTurns(database, images)
        """Turns that were stored before."""
        self._admission = AdmissionControl(settings.max_waiting)
        self.limiter = Limiter()
        """Messages a minute and replies at once, of members and guilds."""
        self._pseudonyms = Pseudonyms(settings, lambda: database.application_id)
        self._wait_estimates: defaultdict[_Lane, WaitEstimate] = defaultdict(WaitEstimate)
        """One for each server: its replies say nothing of how long another one's messages wait."""
        self._sending = Sending(lambda group: self._wait_estimates[self._lane(*group)], is_fair=self._is_fair)
        self._runners = {
            name: TurnRunner(
                database,
                each,
                settings,
                self._turns,
                self._sending,
                FileIntake(self.file_reader, each, settings),
                images,
            )
            for name, each in self.models.engines.items()
        }
        self._running: dict[DialogKey, ReplyControl] = {}
        self._stops = StopRequests(database)
        self._in_flight: set[asyncio.Future[None]] = set()
        self._closing = False

    async def chat(self, request: ChatRequest, on_delta: OnDelta) -> ChatReply:
        """Reply to a message, passing each piece to `on_delta`.

        Raises a BotError, or what `on_delta` raised. The turn is then not in the history.
        """
        has_files = bool(request.offers) or any(file.kind == "file" for file in request.files)
        with self._meter("new", request) as meter:
            text = self._validated(request.text, may_be_empty=has_files)
            return meter.replied(await self._serve(replace(request, text=text), "new", on_delta, meter))

    async def regenerate(self, request: ChatRequest, on_delta: OnDelta) -> ChatReply:
        """Generate another reply to `request.turn_id`, or to the last message of this dialog.

        The history contains the present reply until the new one is stored; after that it is kept as a variant.
        Raises NothingToRegenerate, or what `chat` raises.
        """
        with self._meter("regenerate", request) as meter:
            return meter.replied(await self._serve(request, "regenerate", on_delta, meter))

    async def continue_reply(self, request: ChatRequest, on_delta: OnDelta) -> ChatReply:
        """Go on with the reply of `request.turn_id`, which the length limit cut. Only the new text goes to `on_delta`.

        Raises NothingToRegenerate, or what `chat` raises.
        """
        with self._meter("continue", request) as meter:
            return meter.replied(await self._serve(request, "continue", on_delta, meter))

    def _meter(self, kind: TurnKind, request: ChatRequest) -> TurnMeter:
        return TurnMeter(kind, self.models.applying(request.model))

    def _lane(self, model: str, key: DialogKey) -> _Lane:
        """The server that messages of this guild, or of this person's direct messages, wait for."""
        return model, self.models.engines[model].lane(self._pseudonyms.cache_salt(key))

    def _is_fair(self, group: tuple[str, DialogKey]) -> bool:
        model, _guild = group
        is_own = model == DEFAULT_MODEL and self._settings.engine_url is None
        return is_own or self.models.engines[model].shares_time

    def _loading(self, model: str) -> str | None:
        """How far the model is loaded; None: it is."""
        engine = self.models.engines[model]
        return engine.load_progress if engine.state == "loading" else None

    async def _serve(self, request: ChatRequest, kind: TurnKind, on_delta: OnDelta, meter: TurnMeter) -> ChatReply:
        """Wait for the dialog's earlier messages, then run a turn."""
        if self._closing:
            raise ShuttingDown()
        dialog = request.key.dialog
        control = ReplyControl(self._settings.reply_timeout)
        live = LiveFilter(request.content_filter, on_delta, control)
        async with contextlib.AsyncExitStack() as stack:
            asked_by = request.place.nonce if request.place else request.interaction_id
            member, guild = member_key(request.key), guild_key(request.key)
            model = self.models.applying(request.model)
            lane = self._lane(model, guild)
            slot = stack.enter_context(self._admission.admit(member, dialog, guild=guild, asked_by=asked_by, lane=lane))
            self.limiter.take(request.key, request.limits, is_repeat=request.is_repeat)
            stack.enter_context(self._counted_as_in_flight())
            stack.enter_context(self.quiet.broken())
            stack.enter_context(self._stops.stoppable(asked_by, request.key, control))
            message = await stack.enter_async_context(self._waiting.entered(dialog))
            estimate = self._wait_estimates[lane]
            waiting = Waiting(slot, estimate, partial(self._loading, model))
            progress = ReplyProgress(
                request, waiting, live, estimate, shows_thinking_time=self._settings.show_thinking_time
            )
            progress.on_first_token += [slot.release, meter.first_token]
            request.on_waiting(waiting)

            async def turn_comes() -> None:
                # The dialog first: a message behind another one of its dialog holds no place of a reply.
                await stack.enter_async_context(self._locks.hold(dialog))
                waiting.behind_own = False
                await stack.enter_async_context(self.limiter.turn(request.key, request.limits))
                sent = await self._sending.turn((model, guild))
                stack.callback(sent.release)
                progress.on_first_token.append(sent.release)

            with span("queue"):
                async with control.queue_scope():
                    await message.wait(turn_comes())
            if self._closing:
                raise ShuttingDown()
            if control.reason == "stopped":
                return STOPPED_IN_QUEUE
            meter.turn_came()
            self._running[dialog] = control
            failed = True
            try:
                reply = await self._runners[model].run(request, kind, control, message, progress, live)
                failed = False
                return reply
            finally:
                progress.end(failed=failed)
                del self._running[dialog]

    @property
    def num_waiting(self) -> int:
        """How many messages wait for their first token, of everybody."""
        return len(self._admission)

    def waiting_of(self, key: DialogKey) -> tuple[WaitingInfo, ...]:
        """The messages of one member in one guild that wait here for their first token, the first one first."""
        found = []
        for slot in self._admission.of(member_key(key)):
            line = slot.line()
            estimate = self._wait_estimates[slot.lane]
            model, _number = slot.lane
            loading = self._loading(model) is not None
            status = WaitStatus(len(line), estimate.seconds(line), loading=loading)
            found.append(WaitingInfo(slot.asked_by, status))
        return tuple(found)

    async def stop(self, key: DialogKey) -> bool:
        """Stop the running reply of this dialog and keep what was generated. False if none is running."""
        control = self._running.get(key.dialog)
        return control is not None and control.interrupt("stopped")

    async def stop_reply(self, interaction_id: int, by: StopRequester) -> bool:
        """Stop the reply to this interaction and keep what was generated, also if another process of the bot writes it.

        False if no process writes it any more; that may take some seconds to find out. Raises NotTheAsker.
        """
        with translate_database_errors():
            return await self._stops.stop(interaction_id, by)

    async def stop_member(self, guild_id: int, user_id: int, questions: Iterable[int], by: StopRequester) -> None:
        """Stop all replies to a member in a guild: those that wait or are written here at once, and `questions`.

        `questions`: what asked for their replies in any process.
        """
        here = self._stops.stop_where(lambda key: key.guild_id == guild_id and key.user_id == user_id)
        with translate_database_errors():
            await asyncio.gather(*(self._stops.stop(each, by) for each in set(questions) - here))

    async def recover(self) -> None:
        """Store replies that could not be saved and end turns that no task works on, once the database is back.

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
