"""The two transactions of a turn, and how each ends when something goes wrong.

The begin transaction opens a turn, or takes up a finished one for another reply. The finish transaction stores the
reply. A caller cancelled in the middle of either leaves nothing half done. Knows the queries; knows neither the engine
nor the order in which messages are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypedDict, TypeVar
from uuid import uuid4

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bot.chat.generation import GeneratedReply
from bot.errors import BotError, DatabaseUnavailable, NothingToRegenerate, ShuttingDown
from bot.failpoint import failpoint
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import errors as stored
from models import queries
from models.database import Database
from models.types import DialogKey, DialogSettings, Pair, PersonaText, TurnResult, TurnSnapshot

log = structlog.get_logger(__name__)

SAVE_ATTEMPTS = 2  # each waits some seconds for the database itself
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One message, or the wish for another reply to the last one (`text` is then ignored)."""

    key: DialogKey
    text: str
    interaction_id: int | None = None
    reply_token: str | None = None
    application_id: int | None = None
    role_turns: int | None = None
    """The daily quota of the member's role, if it has one: it replaces the guild's."""


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
    is_regeneration: bool
    """It has a reply already, which is kept unless another one is stored."""


class _BeginArguments(TypedDict):
    key: DialogKey
    limit: int
    interaction_id: int | None
    reply_token: str | None
    application_id: int | None
    role_turns: int | None
    now: datetime


class TurnLog:
    """Begins and finishes turns in one database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    async def begin(self, request: ChatRequest, text: str | None) -> PendingTurn:
        """The begin transaction of a new turn; without `text`, of another reply to the last one.

        Raises Duplicate, QuotaUsedUp, NothingToRegenerate, DatabaseUnavailable, or BotError for a blocked member.
        """
        beginning = asyncio.ensure_future(self._begin(request, text))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError as error:
            await asyncio.wait([beginning])
            if beginning.exception() is None:
                await self.fail(beginning.result(), error)
            raise

    async def _begin(self, request: ChatRequest, text: str | None) -> PendingTurn:
        arguments = _BeginArguments(
            key=request.key,
            limit=self._settings.max_chat_logs,
            interaction_id=request.interaction_id,
            reply_token=request.reply_token,
            application_id=request.application_id,
            role_turns=request.role_turns,
            now=_now(),  # the same for each attempt: a second one recognises its own row by it
        )
        snapshot: TurnSnapshot | None
        with translate_database_errors():
            if text is None:
                snapshot = await self._database.run(
                    lambda session: queries.begin_regeneration(session, **arguments), brief=True
                )
            else:
                snapshot = await self._database.run(
                    lambda session: queries.begin_turn(session, text=text, **arguments), brief=True
                )
        if snapshot is None:
            raise NothingToRegenerate()
        return PendingTurn(
            key=request.key,
            turn_id=snapshot.turn_id,
            dialog_id=snapshot.dialog_id,
            text=snapshot.text,
            persona=snapshot.persona,
            history=snapshot.history,
            settings=snapshot.settings,
            is_regeneration=text is None,
        )

    async def finish(self, turn: PendingTurn, reply: GeneratedReply) -> tuple[bool, bool]:
        """The finish transaction: (saved, remembered). Does not raise: a reply that cannot be saved is still shown."""
        return await _uncancelled(self._finish(turn, reply))

    async def fail(self, turn: PendingTurn, error: BaseException) -> None:
        """Close the turn of a reply that did not come. Does not raise: `error` matters more."""
        interrupted = isinstance(error, asyncio.CancelledError | ShuttingDown | KeyboardInterrupt)
        error_id = error.error_id if isinstance(error, BotError) else uuid4().hex[:8]
        if isinstance(error, BotError):
            log.warning("no reply", turn=turn.turn_id, error_id=error_id, error=type(error).__name__, reason=str(error))
        await _uncancelled(self._close_without_reply(turn, interrupted, error_id))

    async def _finish(self, turn: PendingTurn, reply: GeneratedReply) -> tuple[bool, bool]:
        if not reply.text.strip():
            await self._close_without_reply(turn, reply.finish_reason == "stopped", "empty")
            return True, False
        result = TurnResult(
            reply=reply.text,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            finish_reason=reply.finish_reason,
            first_token_ms=reply.first_token_ms,
            total_ms=reply.total_ms,
        )
        query = queries.finish_regeneration if turn.is_regeneration else queries.finish_turn
        now = _now()  # the same for each attempt: if the first one was committed, the second changes nothing
        failpoint("before_finish")
        try:
            with translate_database_errors():
                async for attempt in _retrying():
                    with attempt:
                        remembered = await self._database.run(
                            lambda session: query(session, key=turn.key, turn_id=turn.turn_id, result=result, now=now),
                            brief=True,
                        )
        except DatabaseUnavailable as error:
            log.error("the reply could not be saved", turn=turn.turn_id, reason=error.reason)
            return False, False
        failpoint("after_finish")
        if turn.is_regeneration and not remembered:  # the dialog was reset: the waiting message needs no edit any more
            await self._close_without_reply(turn, False, "reset")
        return True, remembered

    async def _close_without_reply(self, turn: PendingTurn, interrupted: bool, error_id: str) -> None:
        try:
            with translate_database_errors():
                if turn.is_regeneration:
                    await self._database.run(
                        lambda session: queries.drop_reply_token(session, key=turn.key, turn_id=turn.turn_id)
                    )
                    return
                await self._database.run(
                    lambda session: queries.fail_turn(
                        session,
                        key=turn.key,
                        turn_id=turn.turn_id,
                        status="interrupted" if interrupted else "failed",
                        error_id=error_id,
                        now=_now(),
                    ),
                    brief=True,
                )
        except BotError as error:
            # It stays pending, which no history shows; the next start marks it as interrupted.
            log.error("the turn could not be closed", turn=turn.turn_id, reason=error.reason)


async def _uncancelled(work: Coroutine[object, object, T]) -> T:
    """Run this to its end even if the caller is cancelled meanwhile, so that no transaction is left half-way."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _retrying() -> AsyncRetrying:
    """A second attempt for a database that restarts: it is back within seconds, and the member reads meanwhile."""
    return AsyncRetrying(
        retry=retry_if_exception_type(stored.DatabaseUnavailable),
        stop=stop_after_attempt(SAVE_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=2),
        reraise=True,
    )


def _now() -> datetime:
    return datetime.now(UTC)
