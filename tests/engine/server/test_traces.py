"""Spans of requests: what they are parts of, which times they have, and that no text is in them."""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.errors import ConfigError
from engine.server.args import ServeOptions, UsageError, parse
from engine.server.traces import RequestTraces, open_traces
from tests.engine.server.conftest import serve

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
WORD = "xyzzy"
ASKED = {"messages": [{"role": "user", "content": f"{WORD} hello"}], "user": WORD, "cache_salt": WORD}


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return format(span.context.trace_id, "032x")


async def test_a_request_has_its_queue_prefill_and_decode_within_the_clients_trace() -> None:
    exporter = InMemorySpanExporter()
    async with serve(traces=RequestTraces(exporter, batched=False)) as served:
        served.load()
        asking = asyncio.create_task(
            served.http.post("/v1/chat/completions", json=ASKED, headers={"traceparent": PARENT})
        )
        request = await served.engine.next_request()
        for name in ("first_step_at", "first_token_at"):  # what the step loop notes
            await asyncio.sleep(0.05)
            setattr(request.stream, name, asyncio.get_running_loop().time())
        request.deliver(list(WORD.encode()))
        await asyncio.sleep(0.05)
        request.deliver([], "stop")
        assert (await asking).status_code == 200
    spans = by_name(exporter.get_finished_spans())
    assert set(spans) == {"request", "prepare", "queue", "prefill", "decode"}
    assert {trace_of(span) for span in spans.values()} == {TRACE}
    assert spans["request"].parent is not None
    assert format(spans["request"].parent.span_id, "016x") == "b7ad6b7169203331"
    assert spans["request"].attributes == {
        "guildllama.outcome": "stop",
        "guildllama.prompt_tokens": len(request.prompt),
        "guildllama.cached_tokens": 3,
        "guildllama.completion_tokens": len(WORD),
    }
    parts = [spans[name] for name in ("prepare", "queue", "prefill", "decode")]
    assert [part.parent for part in parts] == [spans["request"].context] * 4
    for before, after in itertools.pairwise(parts):
        assert before.end_time is not None
        assert after.start_time is not None
        assert abs(before.end_time - after.start_time) < 1e6  # they follow each other
    for part in parts[1:]:
        assert part.end_time is not None
        assert part.start_time is not None
        assert part.end_time - part.start_time > 4e7
    assert WORD not in "".join(span.to_json() for span in spans.values())


@pytest.mark.parametrize("header", ["", "00-zz-zz-01", "x" * 5000, f"00-{'0' * 32}-{'0' * 16}-01", f"ff-{TRACE}-1-1"])
async def test_a_traceparent_that_means_nothing_begins_a_trace_of_its_own(header: str) -> None:
    exporter = InMemorySpanExporter()
    async with serve(traces=RequestTraces(exporter, batched=False)) as served:
        served.load()
        served.engine.replies = [b"yes"]
        answer = await served.http.post("/v1/chat/completions", json=ASKED, headers={"traceparent": header})
        assert answer.status_code == 200
    spans = by_name(exporter.get_finished_spans())
    assert spans["request"].parent is None
    assert len({trace_of(span) for span in spans.values()}) == 1


async def test_what_the_client_does_not_sample_is_not_sent() -> None:
    exporter = InMemorySpanExporter()
    async with serve(traces=RequestTraces(exporter, batched=False)) as served:
        served.load()
        served.engine.replies = [b"yes"]
        unsampled = PARENT.removesuffix("01") + "00"
        await served.http.post("/v1/chat/completions", json=ASKED, headers={"traceparent": unsampled})
    assert exporter.get_finished_spans() == ()


async def test_a_request_that_is_cancelled_in_the_queue_has_no_prefill() -> None:
    exporter = InMemorySpanExporter()
    async with serve(traces=RequestTraces(exporter, batched=False)) as served:
        served.load()
        asking = asyncio.create_task(served.http.post("/v1/chat/completions", json=ASKED))
        request = await served.engine.next_request()
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(request.cancelled.wait(), 5)
    spans = by_name(exporter.get_finished_spans())
    assert set(spans) == {"request", "prepare", "queue"}
    assert spans["request"].attributes is not None
    assert spans["request"].attributes["guildllama.outcome"] == "cancelled"


async def test_each_choice_is_a_request_of_the_engine() -> None:
    exporter = InMemorySpanExporter()
    async with serve(traces=RequestTraces(exporter, batched=False)) as served:
        served.load()
        served.engine.replies = [b"one", b"two"]
        await served.http.post("/v1/chat/completions", json={**ASKED, "n": 2}, headers={"traceparent": PARENT})
    requests = [span for span in exporter.get_finished_spans() if span.name == "request"]
    assert len(requests) == 2
    assert {trace_of(span) for span in requests} == {TRACE}


def test_the_flag_takes_the_url_of_a_collector() -> None:
    for given, used in (
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://collector.example/otlp/v1/traces/", "https://collector.example/otlp/v1/traces"),
    ):
        options = parse(["--traces-url", given])
        assert isinstance(options, ServeOptions)
        assert options.traces_url == used
    for wrong in ("collector:4318", "ftp://x", "http://", "http://me:secret@collector"):
        with pytest.raises(UsageError, match="--traces-url"):
            parse(["--traces-url", wrong])


def test_without_the_extra_the_flag_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'guildllama\[traces\]'"):
        open_traces("http://127.0.0.1:4318")
