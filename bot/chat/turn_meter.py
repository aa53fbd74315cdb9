"""Counts one message to be answered: how it ended, how long it waited, and its tokens.

Knows replies and errors as `bot.telemetry.metrics` names them; knows neither the queue nor the engine.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from bot.chat.chat_reply import ChatReply
from bot.chat.requests import TurnKind
from bot.errors import (
    BotError,
    Busy,
    DatabaseUnavailable,
    Duplicate,
    EngineTimeout,
    EngineUnavailable,
    LimitReached,
    MessageFiltered,
    MessageUnchecked,
    ReplyDeleted,
    ReplyFiltered,
    ShuttingDown,
)
from bot.settings.listed_models import DEFAULT_MODEL
from bot.telemetry.metrics import (
    FIRST_TOKEN_SECONDS,
    PROMPT_TOKENS,
    QUEUE_SECONDS,
    REPLY_SECONDS,
    REPLY_TOKENS,
    RUNNING,
    TURNS,
    TurnOutcome,
)
from bot.telemetry.tracing import event, note
from models.queries.dialogs.pairs import FILTERED

_OF_ERRORS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], TurnOutcome], ...] = (
    (ReplyDeleted, "deleted"),
    ((MessageFiltered, MessageUnchecked, ReplyFiltered), "filtered"),
    (LimitReached, "limited"),
    (Busy, "busy"),
    (Duplicate, "duplicate"),
    (EngineTimeout, "engine_timeout"),
    (EngineUnavailable, "engine"),
    (DatabaseUnavailable, "database"),
    ((ShuttingDown, asyncio.CancelledError, KeyboardInterrupt), "interrupted"),
    (BotError, "refused"),
)
"""The first one that fits counts; what is none of these is a fault of the bot."""


def outcome_of_error(error: BaseException) -> TurnOutcome:
    """How a message ended that got no reply."""
    return next((outcome for kinds, outcome in _OF_ERRORS if isinstance(error, kinds)), "error")


def outcome_of_reply(reply: ChatReply) -> TurnOutcome:
    """How a message ended that got a reply."""
    if reply.finish_reason == "stopped":
        return "stopped"
    if reply.finish_reason == FILTERED:
        return "filtered"
    if reply.is_empty:
        return "empty"
    return "done" if reply.saved else "unsaved"


class TurnMeter:
    """A block that answers one message. Tell it of the reply, or let the error out."""

    def __init__(self, kind: TurnKind, model: str = DEFAULT_MODEL) -> None:
        """`model`: the name of the model that is to answer."""
        self._kind = kind
        self._model = model
        self._began_at = time.monotonic()
        self._reply: ChatReply | None = None
        self._is_running = self._has_token = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_running:
            RUNNING.dec()
        outcome: TurnOutcome = "error"
        if error is not None:
            outcome = outcome_of_error(error)
        elif self._reply is not None:
            outcome = outcome_of_reply(self._reply)
        TURNS.labels(self._kind, outcome, self._model).inc()
        note(outcome=outcome, model=self._model)

    def turn_came(self) -> None:
        """The message waits for no other one any more."""
        self._is_running = True
        RUNNING.inc()
        QUEUE_SECONDS.observe(time.monotonic() - self._began_at)

    def first_token(self) -> None:
        """The first token of the reply came, also if it belongs to a thought."""
        FIRST_TOKEN_SECONDS.labels(self._model).observe(time.monotonic() - self._began_at)
        event("first token")

    def replied(self, reply: ChatReply) -> ChatReply:
        """The reply is complete; returned as it is."""
        self._reply = reply
        PROMPT_TOKENS.labels(self._model).inc(reply.prompt_tokens)
        REPLY_TOKENS.labels(self._model).inc(reply.completion_tokens)
        if not reply.is_empty and reply.saved:
            REPLY_SECONDS.labels(self._model).observe(time.monotonic() - self._began_at)
        note(
            turn=reply.turn_id,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            finish_reason=reply.finish_reason,
        )
        return reply
