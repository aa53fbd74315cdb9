"""Spans of a message: their order, the header that the engine gets, and that no text of a member is in them."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from bot.errors import BotError, EngineUnavailable
from bot.telemetry import span_export, tracing
from bot.telemetry.span_export import otlp_exporter, start_tracing
from bot.telemetry.tracing import (
    event_arrived,
    mark,
    message_span,
    note,
    span,
    trace_headers,
    trace_id,
)
from tests.bot.chat.chat_kit import MakeChat, say
from tests.fakes.engine import FakeEngine

WORD = "xyzzy"
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Where the spans of the test go."""
    memory = InMemorySpanExporter()
    running = start_tracing(memory, batched=False)
    yield memory
    running.close()


def named(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {each.name: each for each in spans}


@ON_SQLITE
async def test_a_message_from_its_event_to_its_end(
    exporter: InMemorySpanExporter, make_chat: MakeChat, engine: FakeEngine
) -> None:
    chat = make_chat()
    engine.reply("one ", "two")
    event_arrived()
    mark("acknowledged")
    await asyncio.sleep(0.05)
    with message_span(guild=5, kind="new"):
        reply = await say(chat, f"{WORD} hello")
    spans = named(exporter.get_finished_spans())
    assert {"message", "queue", "begin transaction", "prompt", "generate", "stream", "finish transaction"} <= set(spans)
    root = spans["message"]
    assert root.parent is None
    assert root.attributes == {
        "guildllama.guild": 5,
        "guildllama.kind": "new",
        "guildllama.model": "default",
        "guildllama.turn": reply.turn_id,
        "guildllama.prompt_tokens": reply.prompt_tokens,
        "guildllama.completion_tokens": reply.completion_tokens,
        "guildllama.finish_reason": "stop",
        "guildllama.outcome": "done",
    }
    assert [event.name for event in root.events] == ["acknowledged"]
    assert root.start_time is not None
    assert spans["queue"].start_time is not None
    assert spans["queue"].start_time - root.start_time > 4e7  # it began with the event
    assert [event.name for event in spans["stream"].events] == ["first token"]
    assert {each.context.trace_id for each in spans.values() if each.context} == {root.context.trace_id}
    assert spans["stream"].parent == spans["generate"].context
    assert spans["generate"].parent == root.context
    [asked] = engine.requests
    parent = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[13]", asked.headers["traceparent"])
    assert parent is not None
    assert spans["stream"].context is not None
    assert int(parent[1], 16) == root.context.trace_id
    assert int(parent[2], 16) == spans["stream"].context.span_id
    assert WORD not in "".join(each.to_json() for each in spans.values())


@ON_SQLITE
async def test_an_error_is_named_by_its_type_and_not_by_its_words(
    exporter: InMemorySpanExporter, make_chat: MakeChat, engine: FakeEngine
) -> None:
    engine.fail(500, f"{WORD} is broken")
    await refused(make_chat(), EngineUnavailable)
    for error in (LookupError(WORD), BotError(WORD)):
        await raising(error)
    spans = exporter.get_finished_spans()
    roots = [each for each in spans if each.name == "message"]
    assert [each.status.description for each in roots] == ["EngineUnavailable", "LookupError", "BotError"]
    assert all(each.status.status_code is StatusCode.ERROR for each in roots)
    assert roots[0].attributes is not None
    assert roots[0].attributes["guildllama.outcome"] == "engine"
    assert WORD not in "".join(each.to_json() for each in spans)


async def refused(chat: object, error: type[Exception]) -> None:
    with pytest.raises(error), message_span(guild=5):
        await say(chat, f"{WORD} hello")  # type: ignore[arg-type]


async def raising(error: Exception) -> None:
    with pytest.raises(type(error)), message_span(guild=5), span("part"):
        raise error


async def test_messages_at_once_have_traces_of_their_own(exporter: InMemorySpanExporter) -> None:
    async def message(number: int) -> None:
        event_arrived()
        with message_span(guild=number):
            await asyncio.sleep(0)
            with span("part"):
                note(number=number)
                await asyncio.sleep(0)

    await asyncio.gather(*(message(number) for number in range(10)))
    spans = exporter.get_finished_spans()
    traces = {each.context.trace_id: each.attributes["guildllama.guild"] for each in spans if each.name == "message"}
    assert len(traces) == 10
    for part in (each for each in spans if each.name == "part"):
        assert part.attributes["guildllama.number"] == traces[part.context.trace_id]


async def test_a_share_of_the_messages_is_traced_and_all_or_nothing_of_each() -> None:
    memory = InMemorySpanExporter()
    running = start_tracing(memory, ratio=0.0, batched=False)
    with message_span(guild=5), span("part"):
        flags = int(trace_headers()["traceparent"][-2:], 16)
        assert flags & 1 == 0  # the engine does not either
    running.close()
    assert memory.get_finished_spans() == ()


async def test_work_that_is_no_message_has_no_spans(exporter: InMemorySpanExporter) -> None:
    with span("begin transaction") as nothing:
        assert nothing is None
        assert trace_headers() == {}
        assert trace_id() is None
    assert exporter.get_finished_spans() == ()


def test_spans_that_are_lost_are_told_once_and_their_sender_waits_for_seconds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(span_export, "_EXPORT_SECONDS", 0.2)
    monkeypatch.setattr(logging.getLogger("opentelemetry"), "level", logging.CRITICAL)  # as `bot.log` sets it
    sender = otlp_exporter("http://127.0.0.1:9/v1/traces")
    with capture_logs() as logged:
        for _ in range(3):
            assert sender.export([]) is SpanExportResult.FAILURE
    sender.shutdown()
    assert [each["event"] for each in logged] == ["traces could not be sent and are lost"]


async def test_when_it_is_off_nothing_is_imported_and_nothing_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("opentelemetry")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert tracing._tracer is None
    event_arrived()
    mark("acknowledged")
    with message_span(guild=5), span("part", number=1):
        note(x=1)
        tracing.event("first token")
        assert trace_headers() == {}
        assert trace_id() is None
