"""The use case: a member says something, the model answers in character, both sides are remembered as one turn.

Two short transactions (`bot.chat.turn_log`) around a generation that holds no database connection: T1 opens the turn
and takes the snapshot that the prompt is built from, T2 stores the reply. The commit comes before the reply is given
back: what a front-end shows as final is in the database, or it is told otherwise (`saved`, `remembered`). Knows no
Discord, no SQL and no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bot.chat.admission import Admission
from bot.chat.generation import GenerationRequest, Generator, Interruption, OnDelta
from bot.chat.keyed_locks import KeyedLocks
from bot.chat.prompt import clean_text, has_nul, select_pairs
from bot.chat.turn_log import ChatRequest, PendingTurn, TurnLog
from bot.engine_client.client import EngineClient
from bot.engine_client.pseudonyms import Pseudonyms
from bot.errors import EmptyMessage, MessageTooLong, NulCharacters, ShuttingDown
from bot.failpoint import failpoint
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.types import DialogKey, Pair

__all__ = ["UNDO_WITHIN", "ChatReply", "ChatRequest", "ChatService"]

UNDO_WITHIN = timedelta(minutes=10)
"""For so long a reset can be taken back."""
_REMEMBERED_DIALOGS = 10_000


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply as it is to be shown.

    `saved` is False when the database could not be written: the reply is real and will be missing from the history.
    `remembered` is also False when the dialog was reset meanwhile, or when the model said nothing at all (`text` is
    then empty: half a pair is no pair).
    """

    text: str
    turn_id: int
    finish_reason: str
    remembered: bool
    saved: bool
    prompt_tokens: int
    completion_tokens: int
    pairs_in_prompt: int


class ChatService:
    """Serves many dialogs at once; the messages of one dialog in the order in which they came."""

    def __init__(self, *, database: Database, engine: EngineClient, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._turns = TurnLog(database, settings)
        self._generator = Generator(engine, settings)
        self._ids = Pseudonyms(settings)
        self._locks: KeyedLocks[DialogKey] = KeyedLocks()
        self._admission = Admission(settings.max_waiting)
        self._running: dict[DialogKey, Interruption] = {}
        self._open: set[asyncio.Future[None]] = set()
        self._closing = False
        # Where the last prompt of a dialog began (see dialog.window). Losing it costs one prefix, nothing else.
        self._first_kept: OrderedDict[int, int] = OrderedDict()

    async def chat(self, request: ChatRequest, on_delta: OnDelta) -> ChatReply:
        """Answer. Raises a BotError, or what `on_delta` raised; then nothing of the turn is in the history."""
        return await self._serve(request, self._checked(request.text), on_delta)

    async def regenerate(self, request: ChatRequest, on_delta: OnDelta) -> ChatReply:
        """Answer the last message of this dialog anew; the text of the request does not matter.

        The reply that stands is in the history until the new one is stored, and is kept as a variant after that.
        Raises NothingToRegenerate, or what `chat` does.
        """
        return await self._serve(request, None, on_delta)

    async def _serve(self, request: ChatRequest, text: str | None, on_delta: OnDelta) -> ChatReply:
        """A new turn, or without a text another reply to the last one: in its dialog's order."""
        if self._closing:
            raise ShuttingDown()
        with self._admission.enter(_member(request.key)) as place, self._counted():
            async with self._locks.hold(request.key):
                if self._closing:
                    raise ShuttingDown()
                interruption = Interruption(self._settings.reply_timeout)
                self._running[request.key] = interruption

                async def first_delta_leaves_the_queue(piece: str) -> None:
                    place.leave()
                    await on_delta(piece)

                try:
                    return await self._turn(request, text, first_delta_leaves_the_queue, interruption)
                finally:
                    del self._running[request.key]

    async def reset(self, key: DialogKey) -> int:
        """End the dialog and say how many pairs it held. A running reply is shown when it comes, and forgotten."""
        with translate_database_errors():
            return await self._database.run(lambda session: queries.end_dialog(session, key=key, now=_now()))

    async def undo_reset(self, key: DialogKey) -> bool:
        """Take the last reset back. False if it is too long ago, or something was said since."""
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.reopen_dialog(session, key=key, within=UNDO_WITHIN, now=_now())
            )

    async def forget(self, key: DialogKey, count: int) -> int:
        """Delete the last pairs of the open dialog, and say how many there were."""
        with translate_database_errors():
            return await self._database.run(lambda session: queries.forget_last(session, key=key, count=count))

    async def stop(self, key: DialogKey) -> bool:
        """End the running reply of this dialog; what it said so far is kept. False when there is none."""
        interruption = self._running.get(key)
        return interruption is not None and interruption.interrupt("stopped")

    async def history(self, key: DialogKey, limit: int) -> tuple[Pair, ...]:
        """The last pairs of the open dialog, oldest first."""
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
        """Take no more messages, let the running replies end for `grace` seconds, then interrupt them."""
        self._closing = True
        if self._open and grace > 0:
            await asyncio.wait(self._open, timeout=grace)
        for interruption in self._running.values():
            interruption.interrupt("shutdown")
        if self._open:
            await asyncio.wait(self._open, timeout=10)
        await self._turns.close()

    def _checked(self, text: str) -> str:
        limit = self._settings.max_message_chars
        if has_nul(text):
            raise NulCharacters("message")
        text = clean_text(text)
        if not text:
            raise EmptyMessage()
        if len(text) > limit:
            raise MessageTooLong(limit, len(text))
        return text

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        done = asyncio.get_running_loop().create_future()
        self._open.add(done)
        try:
            yield
        finally:
            self._open.discard(done)
            done.set_result(None)

    async def _turn(
        self, request: ChatRequest, text: str | None, on_delta: OnDelta, interruption: Interruption
    ) -> ChatReply:
        begun = await self._turns.begin(request, text)
        failpoint("after_begin_turn")
        try:
            generated = await self._generator.reply(self._job(begun), on_delta, interruption)
        except BaseException as error:
            await self._turns.give_up(begun, error)
            raise
        saved, remembered = await self._turns.save(begun, generated)
        return ChatReply(
            text=generated.text,
            turn_id=begun.turn_id,
            finish_reason=generated.finish_reason,
            remembered=remembered,
            saved=saved,
            prompt_tokens=generated.prompt_tokens,
            completion_tokens=generated.completion_tokens,
            pairs_in_prompt=generated.pairs_in_prompt,
        )

    def _job(self, begun: PendingTurn) -> GenerationRequest:
        chosen = begun.settings
        limit = _at_most(self._settings.max_chat_logs, chosen.max_chat_logs)
        pairs = select_pairs(
            begun.history, limit, self._settings.trim_step, self._first_kept.pop(begun.dialog_id, None)
        )
        if pairs:
            self._first_kept[begun.dialog_id] = pairs[0].turn_id
            if len(self._first_kept) > _REMEMBERED_DIALOGS:
                self._first_kept.popitem(last=False)
        return GenerationRequest(
            persona=self._settings.persona if begun.persona is None else begun.persona.prompt,
            history=pairs,
            text=begun.text,
            user=self._ids.user(begun.key),
            cache_salt=self._ids.cache_salt(begun.key),
            max_reply_tokens=_at_most(self._settings.max_reply_tokens, chosen.max_reply_tokens),
        )


def _member(key: DialogKey) -> DialogKey:
    """One person in one guild, however many dialogs the guild's scope gives them: they share one part of the queue."""
    return DialogKey(key.guild_id, key.user_id)


def _at_most(limit: int, chosen: int | None) -> int:
    """What the guild chose, unless the operator's limit is lower meanwhile."""
    return limit if chosen is None else min(limit, chosen)


def _now() -> datetime:
    return datetime.now(UTC)
