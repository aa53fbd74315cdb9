"""Answers that are server-sent events of an unusual spelling, or none at all, as bytes."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from aiohttp import web

from bot.engine_client.client import EngineClient
from bot.engine_client.errors import ContextExceeded, PromptRefused
from bot.errors import Busy, EngineRefused, EngineUnavailable, EngineUnreadable
from tests.bot.engine_client.wire_kit import ask, ask_once
from tests.fakes.engine.wire import Answer, WireServer, chunk, events

HI, STOP = chunk({"content": "Hé🦙"}), chunk({}, "stop")
PLAIN = events(HI, STOP)
LAST = chunk({"content": "Hé🦙"}, "stop")
WHOLE = {"choices": [{"message": {"content": "Hé🦙"}, "finish_reason": "stop"}]}
RAW = b"".join(f"data: {json.dumps(part, ensure_ascii=False)}\n\n".encode() for part in (HI, STOP))

BODIES: dict[str, tuple[bytes, str]] = {
    "CRLF": (PLAIN.replace(b"\n", b"\r\n"), "text/event-stream"),
    "CR": (PLAIN.replace(b"\n", b"\r"), "text/event-stream"),
    "a byte order mark before each event": (PLAIN.replace(b"data:", b"\xef\xbb\xbfdata:"), "text/event-stream"),
    "data in several lines": (PLAIN.replace(b', "delta"', b',\ndata: "delta"'), "text/event-stream"),
    "no space": (PLAIN.replace(b"data: ", b"data:"), "text/event-stream"),
    "named events": (b"event: chunk\nid: 1\nretry: 9\n" + PLAIN, "text/event-stream"),
    "no empty lines": (PLAIN.replace(b"\n\n", b"\n"), "text/event-stream"),
    "no empty line at the end": (events(HI, STOP, done=False).rstrip(b"\n"), "text/event-stream"),
    "the last text unended": (events(LAST, done=False).rstrip(b"\n"), "text/event-stream"),
    "the characters themselves": (RAW, "text/event-stream"),
    "called JSON": (PLAIN, "application/json"),
    "called bytes": (PLAIN, "application/octet-stream"),
    "JSON on each line": (json.dumps(HI).encode() + b"\n" + json.dumps(STOP).encode(), "application/x-ndjson"),
    "JSON on each line, called JSON": (json.dumps(HI).encode() + b"\n\n" + json.dumps(STOP).encode(), "x/y+json"),
    "one answer": (json.dumps(WHOLE).encode(), "application/json"),
    "one answer, called a stream": (json.dumps(WHOLE, indent=2).encode() + b"\n", "text/event-stream"),
    "a list of chunks": (b"data: " + json.dumps([HI, STOP]).encode() + b"\n\n", "text/event-stream"),
    "[done]": (events(HI, done=False) + b"data: [done]\n\n", "text/event-stream"),
    '"[DONE]"': (events(HI, done=False) + b'data: "[DONE]"\n\n', "text/event-stream"),
    "a bare [DONE]": (events(HI, done=False) + b"[DONE]\n\n", "text/event-stream"),
    "an event that says done": (events(HI, done=False) + b"event: done\ndata: {}\n\n", "text/event-stream"),
    "null and nothing": (b"data: null\n\ndata:\n\ndata: []\n\n" + PLAIN, "text/event-stream"),
    "a heartbeat in words": (b"event: heartbeat\ndata: still here\n\ndata: : hello\n\n" + PLAIN, "text/event-stream"),
    "errors that are none": (events({**HI, "error": {"code": 0, "message": ""}}, {**STOP, "error": ""}), "text/plain"),
    "the whole reply once more": (events(HI, {**WHOLE, "object": "chat.completion"}), "text/event-stream"),
    "delta and message": (
        events({"choices": [{**HI["choices"][0], **WHOLE["choices"][0]}]}),  # type: ignore[index]
        "text/event-stream",
    ),
}


def sending(body: bytes, step: int, content_type: str = "text/event-stream", **headers: str) -> Answer:
    """Answers with this body, so many bytes at a time."""

    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = web.StreamResponse(headers={"Content-Type": content_type, **named})
        await response.prepare(request)
        for start in range(0, len(body), step):
            await response.write(body[start : start + step])
            await asyncio.sleep(0)
        return response

    return answer


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("what", BODIES)
async def test_case_13_every_spelling_is_read(what: str, step: int):
    body, content_type = BODIES[what]
    said, end = await ask_once(sending(body, step, content_type))
    assert (said, end.finish_reason) == ("Hé🦙", "stop")


async def test_case_13_a_packed_stream_in_single_bytes():
    assert (await ask_once(sending(gzip.compress(PLAIN), 1, Content_Encoding="gzip")))[0] == "Hé🦙"


async def test_case_13_a_character_that_was_cut_costs_one_character():
    body = b'data: {"choices":[{"delta":{"content":"caf\xe9\there"}}]}\n\n' + events(STOP)
    assert (await ask_once(sending(body, 9)))[0] == "caf�\there"


@pytest.mark.parametrize("cut", range(1, 40, 3))
async def test_case_13_a_stream_that_was_cut_off_is_no_whole_reply(cut: int):
    body = events(HI, STOP, done=False).rstrip(b"\n")
    with pytest.raises(EngineUnavailable, match="no finish_reason"):
        await ask_once(sending(body[: -cut - 1], 5))


@pytest.mark.parametrize("body", [b"<!doctype html><p>Welcome", b"\n <html>", b"hello", b'{"a": ', b"data: {{{}}}\n\n"])
async def test_attack_no_stream_at_all(body: bytes):
    with pytest.raises(EngineUnavailable):
        await ask_once(sending(body, 4, "text/event-stream"))


async def test_attack_lines_that_look_like_the_next_event_are_tried_once():
    body = b"data: [{}\n" + b"data: {}\n" * 100_000 + b"\n" + PLAIN
    with pytest.raises(EngineUnreadable):
        await asyncio.wait_for(ask_once(sending(body, 1 << 16)), 10)


def in_stream(error: object) -> bytes:
    return b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"


class TestRefusalsInsideAStream:
    """Servers that begin the stream before they look at the request (LM Studio, OpenRouter, LiteLLM)."""

    @pytest.mark.parametrize("before", [b"", b": PROCESSING\n\n"])
    async def test_case_09_a_field(self, before: bytes):
        async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
            refusal = before + in_stream({"error": {"message": "property 'cache_salt' is unsupported", "code": 400}})
            return await sending(refusal if "cache_salt" in sent else PLAIN, 99)(sent, request)

        async with WireServer(answer) as server, EngineClient(server.url) as client:
            assert (await ask(client))[0] == "Hé🦙"
            assert (await ask(client))[0] == "Hé🦙"
        assert len(server.bodies) == 3

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            ({"message": "Provider returned error", "code": 400}, PromptRefused),
            ({"message": "The model has crashed", "code": "422"}, PromptRefused),
            ({"message": "no credits", "code": 402}, EngineRefused),
            ({"message": "slow down", "status": 429}, Busy),
            ({"message": "upstream", "code": 502}, EngineUnavailable),
            ({"message": "Context size exceeded: prompt 5000, n_ctx=4096"}, ContextExceeded),
        ],
    )
    async def test_case_07_its_status_counts_before_any_text(self, error: object, expected: type[Exception]):
        with pytest.raises(expected) as caught:
            await ask_once(in_stream({"error": error}))
        assert type(caught.value) is expected

    async def test_case_07_an_error_without_data_in_the_middle(self):
        body = events(HI, done=False) + b'{"error": {"message": "out of memory", "code": 400}}\n'
        with pytest.raises(EngineUnavailable, match="out of memory") as caught:
            await ask_once(body)
        assert type(caught.value) is EngineUnavailable
