"""Streams in every shape that servers give them: the text is kept and right."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from bot.engine_client.client import EngineClient
from bot.engine_client.stream import reply_end
from bot.errors import EngineUnavailable, EngineUnreadable
from tests.bot.engine_client.wire_kit import ask, ask_once
from tests.fakes.engine.wire import OK, WireServer, chunk, events

STOP = chunk({}, "stop")
SHAPES: dict[str, tuple[list[object], str]] = {
    "parts": ([chunk({"content": [{"type": "text", "text": "Hi"}]}), STOP], "Hi"),
    "parts without a type, and strings": ([chunk({"content": ["H", {"text": "i"}]}), STOP], "Hi"),
    "one part that is no list": ([chunk({"content": {"type": "text", "text": {"value": "Hi"}}}), STOP], "Hi"),
    "thinking parts": (
        [
            chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}]}),
            chunk({"content": [{"type": "reasoning", "text": "hmm"}, {"type": "text", "text": "Hi"}]}),
            chunk({"content": [{"text": "hmm", "thought": True}]}),
            STOP,
        ],
        "Hi",
    ),
    "reasoning deltas": (
        [
            chunk({"reasoning_content": "hmm"}),
            chunk({"reasoning": "hm", "content": None}),
            chunk({"content": "Hi"}),
            STOP,
        ],
        "Hi",
    ),
    "empty finish reasons": ([chunk({"content": "H"}, ""), chunk({"content": "i"}, ""), STOP], "Hi"),
    "usage only, no choices, nulls": (
        [
            chunk({"role": "assistant"}),
            {"choices": []},
            {"choices": None},
            {},
            {"choices": [None]},
            chunk(None),
            chunk({"content": "Hi"}),
            chunk(None, "stop"),
            {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
        ],
        "Hi",
    ),
    "text instead of a delta": (
        [{"choices": [{"text": "Hi"}]}, {"choices": [{"text": "", "finish_reason": "stop"}]}],
        "Hi",
    ),
    "a whole message": ([{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}], "Hi"),
    "comments and pings": (
        [": keep-alive\n\n", ":\n", "event: ping\n\n", "retry: 5\n\n", chunk({"content": "Hi"}), "id: 7\n\n", STOP],
        "Hi",
    ),
    "a pair of surrogates in one": ([chunk({"content": "a\U0001f600b"}), STOP], "a\U0001f600b"),
    "an emoji in two halves": ([chunk({"content": "a\ud83d"}), chunk({"content": "\ude00b"}), STOP], "a\U0001f600b"),
    "halves with an event between": (
        [chunk({"content": "\ud83d"}), chunk({"content": ""}), ": ping\n\n", chunk({"content": "\ude00"}), STOP],
        "\U0001f600",
    ),
    "two emoji across three": (
        [chunk({"content": "\ud83d"}), chunk({"content": "\ude00\ud83d"}), chunk({"content": "\ude01"}), STOP],
        "\U0001f600\U0001f601",
    ),
    "halves that never meet": ([chunk({"content": "a\ude00b\ud83dc"}), chunk({"content": "d\ud83d"}), STOP], "a�b�cd"),
    "what OpenAI's models say when they will not": ([chunk({"refusal": "Hi"}), STOP], "Hi"),
    "a second choice": (
        [{"choices": [{"index": 1, "delta": {"content": "No"}}]}, chunk({"content": "Hi"}), STOP],
        "Hi",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_case_13_the_text_is_kept_and_right(shape: str):
    chunks, text = SHAPES[shape]
    said, end = await ask_once(events(*chunks))
    assert (said, end.finish_reason) == (text, "stop")


async def test_case_13_a_stream_that_begins_with_a_byte_order_mark():
    assert (await ask_once(b"\xef\xbb\xbf" + events(chunk({"content": "Hi"}), STOP)))[0] == "Hi"


@pytest.mark.parametrize("ending", ["data: [DONE]\n\n", "data: [DONE]\n", "data:[DONE]", "data: [DONE] \n\n"])
async def test_case_13_done_and_no_finish_reason(ending: str):
    said, end = await ask_once(events(chunk({"content": "Hi"}), ending + "\n", done=False))
    assert (said, end.finish_reason) == ("Hi", "stop")


async def test_case_13_neither_done_nor_a_finish_reason_is_an_error():
    with pytest.raises(EngineUnavailable, match="no finish_reason"):
        await ask_once(events(chunk({"content": "Hi"}), done=False))


async def test_case_13_a_connection_that_breaks_after_the_finish_reason():
    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(events(chunk({"content": "Hi"}), STOP, done=False))
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    assert (await ask_once(answer))[0] == "Hi"


@pytest.mark.parametrize("more", ["", ": still here\n\n"])
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 5, "completion_tokens": 1}])
async def test_a_server_that_never_ends_a_complete_reply(more: str, usage: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reply_end, "_END_SECONDS", 0.5)

    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(events(chunk({"content": "Hi"}), STOP, done=False))
        await asyncio.sleep(0.05)
        if usage:
            await response.write(events({"choices": [], "usage": usage}, done=False))
        while True:
            await asyncio.sleep(0.05)
            await response.write(more.encode())

    async with asyncio.timeout(10):
        said, end = await ask_once(answer)
    assert (said, end.finish_reason, end.prompt_tokens) == ("Hi", "stop", 5 if usage else None)


async def test_case_13_a_server_that_does_not_stream():
    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})

    said, end = await ask_once(answer)
    assert (said, end.prompt_tokens, end.completion_tokens) == ("Hi", 3, 1)


async def test_a_repetition_that_our_engine_reports_beside_an_ordinary_end():
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "repetition"}]}
    said, end = await ask_once(events(chunk({"content": "Hi"}), last))
    assert (said, end.finish_reason) == ("Hi", "repetition")


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"),
        ({"type": "length", "length": 5}, "length"),
        ("repetition", "repetition"),
        ("stop\x00", "other"),
        ("x" * 900_000, "other"),
        ("stopped", "other"),  # what only the bot itself says
        (7, "other"),
        (["stop"], "other"),
        (True, "other"),
    ],
)
async def test_attack_finish_reasons_are_of_a_small_known_set(named: object, kept: str):
    assert (await ask_once(events(chunk({"content": "Hi"}, named))))[1].finish_reason == kept


@pytest.mark.parametrize("value", [-1, 10**30, 2**63, "7", "many", [7], {}, True, 1.5, "NaN", None])
async def test_attack_usage_that_is_no_number_of_tokens(value: object):
    usage = {"prompt_tokens": value, "completion_tokens": value}
    for sent in (usage, [usage], "usage", 5):
        _, end = await ask_once(events(chunk({"content": "Hi"}, "stop", usage=sent)))
        assert (end.prompt_tokens, end.completion_tokens) == (None, None)


DEEP = "[" * 100_000
NONSENSE = {
    "choices is a text": {"choices": "Hi"},
    "choices is an object": {"choices": {"0": {}}},
    "a choice is a number": {"choices": [5]},
    "a delta is a list": chunk(["Hi"]),
    "content is a number": chunk({"content": 5}),
    "content is true": chunk({"content": True}),
    "parts are numbers": chunk({"content": [5]}),
    "parts in parts": chunk({"content": [[[[[["Hi"]]]]]]}),
    "deep": f"data: {DEEP}\n\n",
    "deep, as an object": "data: " + '{"choices":' * 50_000 + "\n\n",
    "a long number": 'data: {"usage": ' + "9" * 10_000 + "}\n\n",
    "no UTF-8": "data: {\udcff}\n\n",
    "a long line": "data: " + "x" * 3_000_000 + "\n\n",
    "a long event": ("data: " + "x" * 1000 + "\n") * 2000 + "\n",
    "a long comment": ":" + "x" * 3_000_000,
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_attack_nonsense_is_called_so(what: str):
    event = NONSENSE[what]
    stream = event.encode(errors="surrogateescape") if isinstance(event, str) else events(event)
    with pytest.raises(EngineUnreadable) as caught:
        await ask_once(stream + events(STOP))
    assert caught.value.user_message.startswith("The model's server sent something I cannot read.")
    assert len(caught.value.reason) < 300


async def test_the_stream_is_read_to_its_end_and_the_connection_used_again():
    peers = set()

    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=OK, content_type="text/event-stream")

    async with WireServer(answer) as server, EngineClient(server.url) as client:
        for _ in range(5):
            await ask(client)
    assert len(peers) == 1


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "out of memory"}},
        {"error": "out of memory"},
        {"object": "error", "message": "out of memory", "code": 500},
        {"type": "error", "error": {"type": "overloaded_error", "message": "out of memory"}},
        'event: error\ndata: {"message": "out of memory"}\n\n',
        "event: error\ndata: out of memory\n\n",
        'error: {"code": 500, "message": "out of memory"}\n\n',
    ],
)
async def test_case_07_an_error_inside_the_stream_in_any_shape(event: object):
    with pytest.raises(EngineUnavailable, match="out of memory"):
        await ask_once(events(chunk({"content": "Hi"}), event))


async def test_an_html_page_is_no_stream():
    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>Welcome to your new router!</html>", content_type="text/html")

    with pytest.raises(EngineUnreadable, match="web page"):
        await ask_once(answer)


@pytest.mark.parametrize("charset", ["utf-7", "zlib_codec", "base64", "idna", "nonsense", "utf-16"])
async def test_attack_a_charset_that_is_none(charset: str):
    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=400,
            body=b'{"error": "wrong moon"}',
            headers={"Content-Type": f"application/json; charset={charset}"},
        )

    with pytest.raises(EngineUnavailable, match="wrong moon"):
        await ask_once(answer)
