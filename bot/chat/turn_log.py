"""The two transactions of a turn, and how each of them ends when something goes wrong.

T1 opens a turn, or takes up a finished one for another reply. T2 stores what was generated. A caller who leaves in the
middle of either leaves nothing half done. Knows the queries; knows neither the engine nor who waits for what.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar
from uuid import uuid4

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bot.chat.generation import Generated
from bot.chat.unsaved import UnsavedTurn, UnsavedTurns
from bot.errors import BotError, DatabaseUnavailable, NothingToRegenerate, ShuttingDown
from bot.failpoint import failpoint
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import errors as stored
from models import queries
from models.database import Database
from models.error_text import safe_text
from models.queries.recovery import interrupt_abandoned_turns
from models.types import DialogKey, DialogSettings, Pair, PersonaText, TurnResult

log = structlog.get_logger(__name__)

SAVE_ATTEMPTS = 2  # each of them a few seconds of the database's own patience
CLOSE_TIMEOUT = 5.0  # seconds for what is still to be stored at the end
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    key: DialogKey
    text: str
    interaction_id: int | None = None
    reply_token: str | None = None
    application_id: int | None = None
    role_turns: int | None = None
    """The daily quota of the member's role, where that has one: it replaces the guild's."""


@dataclass(frozen=True, slots=True)
class PendingTurn:
    """A turn that waits for a reply: everything that its prompt is built from."""

    key: DialogKey
    turn_id: int
    dialog_id: int
    text: str
    persona: PersonaText | None
    history: tuple[Pair, ...]
    settings: DialogSettings
    is_regeneration: bool = False
    """It has a reply already, which stays as it is unless another one is stored."""


class TurnLog:
    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._unsaved = UnsavedTurns(database)
        self._storing: asyncio.Task[None] | None = None
        # Which pending turns are ours and wanted: the others of this process are ended by `recover`.
        self._active: set[int] = set()
        self._begin_times: list[datetime] = []

    async def begin(self, request: ChatRequest, text: str | None) -> PendingTurn:
        """T1 of a new turn, or without a text of another reply to the last one."""
        opening = asyncio.ensure_future(self._regenerate(request) if text is None else self._open(request, text))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError as error:
            await asyncio.wait([opening])
            if opening.exception() is None:
                await self.give_up(opening.result(), error)
            raise

    async def _open(self, request: ChatRequest, text: str) -> PendingTurn:
        now = _now()  # once: a second attempt recognises its own row by it
        self._begin_times.append(now)
        try:
            begun = await self._insert(request, text, now)
            self._active.add(begun.turn_id)
        finally:
            self._begin_times.remove(now)
        self._store_unsaved()
        return begun

    async def _insert(self, request: ChatRequest, text: str, now: datetime) -> PendingTurn:
        with translate_database_errors():
            begun = await self._database.run(
                lambda session: queries.begin_turn(
                    session,
                    key=request.key,
                    text=text,
                    limit=self._settings.max_chat_logs,
                    interaction_id=request.interaction_id,
                    reply_token=request.reply_token,
                    application_id=request.application_id,
                    role_turns=request.role_turns,
                    now=now,
                ),
                brief=True,
            )
        return PendingTurn(
            request.key, begun.turn_id, begun.dialog_id, text, begun.persona, begun.history, begun.settings
        )

    async def _regenerate(self, request: ChatRequest) -> PendingTurn:
        now = _now()
        with translate_database_errors():
            begun = await self._database.run(
                lambda session: queries.begin_regeneration(
                    session,
                    key=request.key,
                    limit=self._settings.max_chat_logs,
                    interaction_id=request.interaction_id,
                    reply_token=request.reply_token,
                    application_id=request.application_id,
                    role_turns=request.role_turns,
                    now=now,
                ),
                brief=True,
            )
        if begun is None:
            raise NothingToRegenerate()
        return PendingTurn(
            request.key,
            begun.turn_id,
            begun.dialog_id,
            begun.text,
            begun.persona,
            begun.history,
            begun.settings,
            is_regeneration=True,
        )

    async def save(self, begun: PendingTurn, generated: Generated) -> tuple[bool, bool]:
        """T2: (saved, remembered). A reply that cannot be saved is still a reply, whatever the reason."""
        return await _to_the_end(self._save(begun, generated))

    async def recover(self) -> None:
        """Store what could not be stored, and end the pending turns of this process that nobody works on.

        For a job that runs every minute. Such turns are left when a commit came through but its answer was lost, or
        when not even the end of a turn could be written. One TurnLog per Database. Raises the DatabaseUnavailable of
        `models`.
        """
        await self._unsaved.store()
        now = _now()
        begun_before = min(self._begin_times, default=now)
        active = frozenset(self._active | self._unsaved.turn_ids)
        ended = await self._database.run(
            lambda session: interrupt_abandoned_turns(session, active=active, begun_before=begun_before, now=now)
        )
        if ended:
            log.info("turns without a reply were ended", turns=ended)

    async def close(self) -> None:
        """Try for the last time to store what could not be stored."""
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._unsaved.store()
        except (TimeoutError, stored.DatabaseError):
            log.error("replies are lost, the database did not come back", turns=len(self._unsaved))

    def _store_unsaved(self) -> None:
        """The database answers: store in the background what it could not take before."""
        if len(self._unsaved) and (self._storing is None or self._storing.done()):
            self._storing = asyncio.create_task(self._store_quietly(), name="store-unsaved")

    async def _store_quietly(self) -> None:
        with contextlib.suppress(stored.DatabaseError):  # it is away again: the next success or `recover` tries
            await self._unsaved.store()

    async def give_up(self, begun: PendingTurn, error: BaseException) -> None:
        """Close the turn of a reply that did not come. What went wrong matters more than whether this works."""
        cut_off = isinstance(error, asyncio.CancelledError | ShuttingDown | KeyboardInterrupt)
        error_id = error.error_id if isinstance(error, BotError) else uuid4().hex[:8]
        if isinstance(error, BotError):
            log.warning(
                "no reply", turn=begun.turn_id, error_id=error_id, error=type(error).__name__, reason=str(error)
            )
        await _to_the_end(self._fail(begun, cut_off, error_id))

    async def _save(self, begun: PendingTurn, generated: Generated) -> tuple[bool, bool]:
        try:
            return await self._finish(begun, generated)
        finally:
            self._active.discard(begun.turn_id)

    async def _finish(self, begun: PendingTurn, generated: Generated) -> tuple[bool, bool]:
        if not generated.text.strip():
            await self._fail(begun, generated.finish_reason == "stopped", "empty")
            return True, False
        result = TurnResult(
            reply=generated.text,
            prompt_tokens=generated.prompt_tokens,
            completion_tokens=generated.completion_tokens,
            finish_reason=generated.finish_reason,
            first_token_ms=generated.first_token_ms,
            total_ms=generated.total_ms,
        )
        finish = queries.finish_regeneration if begun.is_regeneration else queries.finish_turn
        now = _now()  # once: the second of two attempts that both came through changes nothing
        store = partial(finish, key=begun.key, turn_id=begun.turn_id, result=result, now=now)
        failpoint("before_finish")
        try:
            with translate_database_errors():
                async for attempt in _patiently():
                    with attempt:
                        remembered = await self._database.run(store, brief=True)
        except Exception as error:
            # Whatever it was: the reply is on the screen, and stays there.
            log.error("the reply could not be saved", turn=begun.turn_id, reason=_reason(error))
            self._unsaved.add(UnsavedTurn(begun.turn_id, len(generated.text), store))
            return False, False
        failpoint("after_finish")
        self._store_unsaved()
        if begun.is_regeneration and not remembered:  # reset meanwhile: nobody waits for this message any more
            await self._fail(begun, False, "reset")
        return True, remembered

    async def _fail(self, begun: PendingTurn, cut_off: bool, error_id: str) -> None:
        key, turn_id = begun.key, begun.turn_id
        self._active.discard(turn_id)
        try:
            with translate_database_errors():
                if begun.is_regeneration:
                    await self._database.run(
                        lambda session: queries.drop_reply_token(session, key=key, turn_id=turn_id)
                    )
                    return
                await self._database.run(
                    lambda session: queries.fail_turn(
                        session,
                        key=key,
                        turn_id=turn_id,
                        status="interrupted" if cut_off else "failed",
                        error_id=error_id,
                        now=_now(),
                    ),
                    brief=True,
                )
        except Exception as error:
            # It stays pending, which no history shows, until `recover` ends it.
            log.error("the turn could not be closed", turn=turn_id, reason=_reason(error))


def _reason(error: Exception) -> str:
    """What the log may say of an error: never what a statement carried."""
    if isinstance(error, DatabaseUnavailable):
        return error.reason
    cause = getattr(error, "orig", None)
    return f"{type(error).__name__}: {safe_text(cause)}" if cause is not None else type(error).__name__


async def _to_the_end(work: Coroutine[object, object, T]) -> T:
    """Run this whole, also when the caller is cancelled meanwhile: a commit is not left half-way."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _patiently() -> AsyncRetrying:
    """A database that restarts is back within seconds, and the reply has been read meanwhile anyway."""
    return AsyncRetrying(
        retry=retry_if_exception_type(stored.DatabaseUnavailable),
        stop=stop_after_attempt(SAVE_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=2),
        reraise=True,
    )


def _now() -> datetime:
    return datetime.now(UTC)
