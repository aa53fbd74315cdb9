"""The two transactions of a turn, and how each ends when something goes wrong.

The begin transaction opens a turn, or takes up a finished one for another reply. The finish transaction stores the
reply. A caller cancelled in the middle of either leaves nothing half done. Knows the queries; knows neither the engine
nor the order in which messages are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypedDict, TypeVar
from uuid import uuid4

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bot.chat.prompts.speakers import distinct_name
from bot.chat.reply.generation import GeneratedReply
from bot.chat.requests import ChatRequest, PendingTurn, TurnKind
from bot.chat.turns.turn_values import pending_turn, turn_result
from bot.chat.turns.unsaved import UnsavedTurn, UnsavedTurns
from bot.errors import BotError, DatabaseUnavailable, NothingToRegenerate, ShuttingDown
from bot.failpoint import failpoint
from bot.log import reason_of
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import errors as stored
from models import queries
from models.database import Database, Work
from models.error_text import safe_text
from models.queries.replies.recovery import interrupt_abandoned_turns
from models.queries.tenants.policy import enforce_policy, load_policy
from models.types import DialogKey, PersonaScope, Place, ReplyLimits, TurnSnapshot

log = structlog.get_logger(__name__)

SAVE_ATTEMPTS = 2  # each waits some seconds for the database itself
T = TypeVar("T")
_FINISH = {
    "new": queries.finish_turn,
    "regenerate": queries.finish_regeneration,
    "continue": queries.finish_continuation,
}


class _BeginArguments(TypedDict):
    key: DialogKey
    limit: int
    interaction_id: int | None
    limits: ReplyLimits | None
    place: Place | None
    persona_scope: PersonaScope
    memory: bool
    now: datetime


class TurnLog:
    """Begins and finishes turns in one database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._unsaved = UnsavedTurns(database)
        # The pending turns that this process works on. `recover` ends its other ones.
        self._active: set[int] = set()
        self._begin_times: list[datetime] = []

    async def begin(self, request: ChatRequest, kind: TurnKind) -> PendingTurn:
        """The begin transaction of a new turn, or of another reply to an earlier one.

        Raises Duplicate, QuotaUsedUp, NothingToRegenerate, DatabaseUnavailable, or BotError for a blocked member.
        """
        beginning = asyncio.ensure_future(self._begin(request, kind))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError as error:
            await asyncio.wait([beginning])
            if beginning.exception() is None:
                await self.fail(beginning.result(), error)
            raise

    async def check(self, request: ChatRequest) -> None:
        """Refuse a member who may not chat now, before anything is done for them. `begin` checks it again.

        Raises QuotaUsedUp, BotError for a blocked member, or DatabaseUnavailable.
        """
        now = _now()
        with translate_database_errors():
            async with self._database.read() as session:
                policy = await load_policy(session, key=request.key, now=now)
                await enforce_policy(session, policy=policy, key=request.key, limits=request.limits, now=now)

    async def _begin(self, request: ChatRequest, kind: TurnKind) -> PendingTurn:
        now = _now()  # the same for each attempt: a second one recognises its own row by it
        self._begin_times.append(now)
        try:
            turn = await self._open(request, kind, now)
            if turn.is_new:
                self._active.add(turn.turn_id)
        finally:
            self._begin_times.remove(now)
        self._unsaved.store_soon()
        return turn

    async def _open(self, request: ChatRequest, kind: TurnKind, now: datetime) -> PendingTurn:
        arguments = _BeginArguments(
            key=request.key,
            limit=self._settings.max_chat_logs,
            interaction_id=request.interaction_id,
            limits=request.limits,
            place=request.place,
            persona_scope=request.persona_scope,
            memory=self._settings.memory,
            now=now,
        )
        snapshot: TurnSnapshot | None
        with translate_database_errors():
            if kind == "new":
                snapshot = await self._database.run(
                    lambda session: queries.begin_turn(
                        session,
                        text=request.text,
                        author=request.author,
                        name_apart=distinct_name,
                        files=request.files,
                        files_note=request.files_note,
                        replaces=request.turn_id,
                        replied_to=request.replied_to,
                        **arguments,
                    ),
                    brief=True,
                )
            else:
                snapshot = await self._database.run(
                    lambda session: queries.begin_regeneration(
                        session, turn_id=request.turn_id, in_place=request.in_place, **arguments
                    ),
                    brief=True,
                )
        if snapshot is None:
            raise NothingToRegenerate()
        return pending_turn(request, kind, snapshot)

    async def finish(self, turn: PendingTurn, reply: GeneratedReply) -> tuple[bool, bool]:
        """The finish transaction: (saved, remembered). Does not raise: a reply that cannot be saved is still shown."""
        return await _uncancelled(self._finish(turn, reply))

    async def fail(self, turn: PendingTurn, error: BaseException) -> None:
        """Close the turn of a reply that did not come. Does not raise: `error` matters more."""
        interrupted = isinstance(error, asyncio.CancelledError | ShuttingDown | KeyboardInterrupt)
        error_id = error.error_id if isinstance(error, BotError) else uuid4().hex[:8]
        if isinstance(error, BotError):
            log.warning(
                "no reply", turn=turn.turn_id, error_id=error_id, error=type(error).__name__, reason=reason_of(error)
            )
        await _uncancelled(self._close_without_reply(turn, interrupted, error_id))

    async def recover(self) -> None:
        """Store replies that could not be saved, and end this process's pending turns that it does not work on.

        Such turns are left when a commit succeeded but its confirmation was lost, or when not even the end of a turn
        could be written. For a job that runs every minute; use one TurnLog per Database. Raises the
        DatabaseUnavailable of `models`.
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
        """Try for the last time to store replies that could not be saved."""
        await self._unsaved.close()

    async def _finish(self, turn: PendingTurn, reply: GeneratedReply) -> tuple[bool, bool]:
        try:
            return await self._store(turn, reply)
        finally:
            self._active.discard(turn.turn_id)

    async def _store(self, turn: PendingTurn, reply: GeneratedReply) -> tuple[bool, bool]:
        if not reply.text.strip():
            await self._close_without_reply(turn, reply.finish_reason == "stopped", "empty")
            return True, False
        result = turn_result(turn, reply, default_prompt=self._settings.persona)
        query = _FINISH[turn.kind]
        now = _now()  # the same for each attempt: if the first one was committed, the second changes nothing
        store = partial(query, key=turn.key, turn_id=turn.turn_id, result=result, now=now)
        failpoint("before_finish")
        try:
            with translate_database_errors():
                async for attempt in _retrying():
                    with attempt:
                        remembered = await self._database.run(store, brief=True)
        except Exception as error:
            # Whatever went wrong: the reply is on the screen and stays there.
            log.error("the reply could not be saved", turn=turn.turn_id, reason=_reason(error))
            store_late = partial(_store_late, store=store, turn=turn)
            self._unsaved.add(UnsavedTurn(turn.turn_id, len(result.reply), store_late))
            return False, False
        failpoint("after_finish")
        self._unsaved.store_soon()
        if not turn.is_new and not remembered:  # the dialog was reset: the waiting message needs no edit any more
            await self._close_without_reply(turn, False, "reset")
        return True, remembered

    async def _close_without_reply(self, turn: PendingTurn, interrupted: bool, error_id: str) -> None:
        self._active.discard(turn.turn_id)
        try:
            with translate_database_errors():
                if not turn.is_new:
                    await self._database.run(
                        lambda session: queries.close_deliveries(session, key=turn.key, turn_id=turn.turn_id)
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
        except Exception as error:
            # It stays pending, which no history shows, until `recover` ends it.
            log.error("the turn could not be closed", turn=turn.turn_id, reason=_reason(error))


async def _store_late(session: Any, *, store: Work[bool], turn: PendingTurn) -> bool:
    """The finish transaction of a reply that was shown long ago: nothing is to be delivered any more."""
    remembered = await store(session)
    await queries.close_deliveries(session, key=turn.key, turn_id=turn.turn_id)
    return remembered


def _reason(error: Exception) -> str:
    """What the log may say of an error: never the values of a statement."""
    if isinstance(error, DatabaseUnavailable):
        return error.reason
    cause = getattr(error, "orig", None)
    return f"{type(error).__name__}: {safe_text(cause)}" if cause is not None else type(error).__name__


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
