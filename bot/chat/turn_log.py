"""The two transactions of a turn, and how each of them ends when something goes wrong.

T1 opens a turn, or takes up a finished one for another reply. T2 stores what was generated. A caller who leaves in the
middle of either leaves nothing half done. Knows the queries; knows neither the engine nor who waits for what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bot.chat.generation import Generated
from bot.errors import BotError, DatabaseUnavailable, NothingToRegenerate, ShuttingDown
from bot.failpoint import failpoint
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import errors as stored
from models import queries
from models.database import Database
from models.types import DialogKey, DialogSettings, Pair, PersonaText, TurnResult

log = structlog.get_logger(__name__)

SAVE_ATTEMPTS = 2  # each of them a few seconds of the database's own patience
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
        """T2: (saved, remembered). A reply that cannot be saved is still a reply."""
        return await _to_the_end(self._save(begun, generated))

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
        failpoint("before_finish")
        try:
            with translate_database_errors():
                async for attempt in _patiently():
                    with attempt:
                        remembered = await self._database.run(
                            lambda session: finish(
                                session, key=begun.key, turn_id=begun.turn_id, result=result, now=now
                            ),
                            brief=True,
                        )
        except DatabaseUnavailable as error:
            log.error("the reply could not be saved", turn=begun.turn_id, reason=error.reason)
            return False, False
        failpoint("after_finish")
        if begun.is_regeneration and not remembered:  # reset meanwhile: nobody waits for this message any more
            await self._fail(begun, False, "reset")
        return True, remembered

    async def _fail(self, begun: PendingTurn, cut_off: bool, error_id: str) -> None:
        key, turn_id = begun.key, begun.turn_id
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
        except BotError as error:
            # It stays pending, which no history shows; the next start marks it as interrupted.
            log.error("the turn could not be closed", turn=turn_id, reason=error.reason)


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
