"""The numbers of the bot: what they are called, what their labels may be, and how a message's end is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import fields
from typing import get_args

import pytest
from prometheus_client import generate_latest

from bot.chat.chat_reply import STOPPED_IN_QUEUE, ChatReply
from bot.chat.turn_meter import TurnMeter, outcome_of_error, outcome_of_reply
from bot.discord_app.rest.request_metrics import route_of, status_of
from bot.errors import (
    BotError,
    Busy,
    DatabaseUnavailable,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    MessageTooLong,
    ReplyDeleted,
    ReplyFiltered,
    ShuttingDown,
)
from bot.telemetry import metrics
from models.maintenance.cleanup import CleanupReport
from tests.bot.metric_values import value

NO_ROWS = {"released_pages", "longest_lock_ms"}


def samples() -> Iterator[tuple[str, dict[str, str]]]:
    for family in metrics.REGISTRY.collect():
        for sample in family.samples:
            yield sample.name, sample.labels


def test_every_series_is_ours_and_its_labels_have_few_values_known_beforehand() -> None:
    known = {
        *metrics.TURN_KINDS, *metrics.TURN_OUTCOMES, *metrics.ROUTES, *metrics.STATUSES, *metrics.RATE_LIMIT_SCOPES,
        *metrics.EDIT_KINDS, "shown", "failed", *metrics.TRANSACTION_KINDS, *metrics.CLEANUP_OUTCOMES,
        *metrics.CLEANED, *metrics.GATEWAY_EVENTS, *metrics.LOG_LEVELS,
    }  # fmt: skip
    found = list(samples())
    assert len(found) < 600
    for name, labels in found:
        assert name.startswith((f"{metrics.PREFIX}_", "process_"))
        assert not name.endswith("_created")
        if name != "guildllama_bot_info":
            # Models have the names that the operator lists; other tests of this process list some.
            assert {value for label, value in labels.items() if label not in ("le", "model")} <= known


def test_the_names_of_outcomes_and_of_a_cleanups_rows_are_those_of_the_program() -> None:
    assert get_args(metrics.TurnOutcome) == metrics.TURN_OUTCOMES
    assert {each.name for each in fields(CleanupReport)} - NO_ROWS == set(metrics.CLEANED)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Busy(), "busy"),
        (EngineTimeout(3), "engine_timeout"),
        (EngineUnavailable("x"), "engine"),
        (EngineRefused("x"), "engine"),
        (DatabaseUnavailable("x"), "database"),
        (ShuttingDown(), "interrupted"),
        (asyncio.CancelledError(), "interrupted"),
        (ReplyDeleted(), "deleted"),
        (ReplyFiltered(), "filtered"),
        (MessageTooLong(1, 2), "refused"),
        (BotError("x"), "refused"),
        (KeyError("x"), "error"),
        (TimeoutError(), "error"),
    ],
)
def test_the_outcome_of_an_error(error: BaseException, outcome: str) -> None:
    assert outcome_of_error(error) == outcome
    before = value("turns_total", kind="new", outcome=outcome, model="default")
    with pytest.raises(type(error)):
        fail(error)
    assert value("turns_total", kind="new", outcome=outcome, model="default") == before + 1
    assert value("running") == 0


def fail(error: BaseException) -> None:
    """A message whose turn came, and that ended with this error."""
    with TurnMeter("new") as meter:
        meter.turn_came()
        assert value("running") == 1
        raise error


def reply(**values: object) -> ChatReply:
    given = {"text": "x", "turn_id": 1, "delivery_id": 1, "regenerated": False, "finish_reason": "stop"}
    given |= {"remembered": True, "saved": True, "prompt_tokens": 7, "completion_tokens": 5, "pairs_in_prompt": 0}
    return ChatReply(**{**given, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (reply(), "done"),
        (reply(finish_reason="length"), "done"),
        (reply(finish_reason="filtered"), "filtered"),
        (reply(finish_reason="stopped"), "stopped"),
        (reply(is_empty=True), "empty"),
        (reply(saved=False, remembered=False), "unsaved"),
        (STOPPED_IN_QUEUE, "stopped"),
    ],
)
def test_the_outcome_of_a_reply(given: ChatReply, outcome: str) -> None:
    assert outcome_of_reply(given) == outcome


def test_a_reply_counts_its_tokens_and_its_times() -> None:
    names = ("prompt_tokens_total", "reply_tokens_total", "first_token_seconds_count", "reply_seconds_count")
    before = [value(name, model="large") for name in names]
    with TurnMeter("regenerate", "large") as meter:
        meter.turn_came()
        meter.first_token()
        meter.replied(reply())
    after = [value(name, model="large") for name in names]
    assert [now - (old or 0) for now, old in zip(after, before, strict=True)] == [7, 5, 1, 1]


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/interactions/1/token/callback?with_response=true", "acknowledge"),
        ("POST", "/channels/1/messages", "send"),
        ("POST", "/webhooks/1/token?wait=true", "send"),
        ("POST", "/webhooks/1/token", "send"),
        ("PATCH", "/channels/1/messages/2", "edit"),
        ("PATCH", "/webhooks/1/token/messages/@original", "edit"),
        ("PATCH", "/webhooks/1/token/messages/3?thread_id=4", "edit"),
        ("DELETE", "/channels/1/messages/2", "delete"),
        ("DELETE", "/webhooks/1/token/messages/2", "delete"),
        ("POST", "/channels/1/typing", "typing"),
        ("GET", "/channels/1/messages", "read"),
        ("PUT", "/applications/1/commands", "other"),
        ("DELETE", "/webhooks/1", "other"),
        ("PATCH", "/webhooks/1/token", "other"),
        ("POST", "/channels/1/messages/2/threads", "other"),
        ("POST", "/channels/1/webhooks", "other"),
        ("POST", "/users/@me/channels", "other"),
        ("PATCH", "/", "other"),
    ],
)
def test_requests_are_counted_by_what_they_ask_for(method: str, path: str, route: str) -> None:
    assert route_of(method, path) == route
    assert route in metrics.ROUTES


def test_every_status_has_a_name() -> None:
    named = {status: status_of(status) for status in (200, 204, 304, 400, 401, 403, 404, 429, 499, 500, 503, 599)}
    assert set(named.values()) <= set(metrics.STATUSES)
    assert (named[204], named[400], named[429], named[503]) == ("2xx", "4xx", "429", "5xx")


def test_the_page_is_small() -> None:
    assert len(generate_latest(metrics.REGISTRY)) < 100_000
