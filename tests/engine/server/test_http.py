"""The HTTP layer through real sockets with the real openai client: shapes, errors, cancel, slow readers."""

import asyncio
import json
import socket
import time

import httpx
import openai
import pytest

from tests.engine.server.conftest import KEY, Served
from tests.engine.server.fakes import CONTEXT

HELLO = [{"role": "user", "content": "Hello"}]


async def stream_lines(served: Served, path: str, body: dict[str, object]) -> list[str]:
    async with served.http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return [line async for line in response.aiter_lines() if line]


async def test_a_whole_chat_reply(served: Served) -> None:
    served.engine.replies = ["안녕! 🐱".encode()]
    reply = await served.client.chat.completions.create(model="tiny", messages=HELLO)
    choice = reply.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "안녕! 🐱", "stop")
    assert (reply.object, reply.model, len(reply.choices)) == ("chat.completion", "tiny", 1)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (12, 12, 24)
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 3


async def test_the_chunks_of_a_stream(served: Served) -> None:
    served.engine.replies = [b"one two"]
    lines = await stream_lines(served, "/v1/chat/completions", {"messages": HELLO, "max_tokens": 3})
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "one"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert {(chunk["object"], chunk["model"], chunk["id"]) for chunk in chunks} == {
        ("chat.completion.chunk", "tiny", chunks[0]["id"])
    }
    assert not any("usage" in chunk for chunk in chunks)


async def test_tokens_are_gathered_for_an_interval_but_neither_the_first_nor_the_end_waits(unhurried: Served) -> None:
    came: list[tuple[float, str]] = []
    stream = await unhurried.client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    request = await unhurried.engine.next()
    began = time.monotonic()

    async def make() -> None:
        for letter in b"abcdefgh":
            request.make([letter])
            await asyncio.sleep(0.04)
        request.make(b"i", "stop")

    making = asyncio.create_task(make())
    async for chunk in stream:
        if text := chunk.choices[0].delta.content:
            came.append((time.monotonic() - began, text))
    await making
    assert "".join(text for _, text in came) == "abcdefghi"
    assert next(len(text) for _, text in came) == 1
    assert len(came) <= 4
    assert came[0][0] < 0.1
    assert came[-1][0] < 0.4  # the interval after the second event would have ended at 0.6


async def test_usage_comes_last_when_it_was_asked_for(served: Served) -> None:
    served.engine.replies = [b"hi"]
    stream = await served.client.chat.completions.create(
        model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage is None for chunk in chunks] == [True, True, True, False]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


async def test_plain_completions_take_text_or_ids(served: Served) -> None:
    served.engine.replies = [b"abc", b"def", b"ghi"]
    whole = await served.client.completions.create(model="tiny", prompt="Say")
    assert (whole.choices[0].text, whole.choices[0].finish_reason, whole.object) == ("abc", "stop", "text_completion")
    stream = await served.client.completions.create(model="tiny", prompt=[72, 105], stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "def"
    assert [request.prompt for request in served.engine.submitted] == [tuple(b"Say"), (72, 105)]
    assert served.engine.submitted[0].params.max_tokens == 16
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        await served.client.completions.create(model="tiny", prompt=[5000])


async def test_what_reaches_the_engine(served: Served) -> None:
    served.engine.replies = [b"x", b"x"]
    await served.client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        temperature=0.5,
        top_p=0.25,
        seed=7,
        max_completion_tokens=9,
        user="u1",
        extra_body={"cache_salt": "g1", "ignore_eos": True, "whatever": 5},
    )
    await served.client.chat.completions.create(model="other", messages=HELLO)
    first, second = served.engine.submitted
    assert first.prompt == tuple(b"user: Hello\n")
    assert (first.client, first.tenant) == ("u1", "g1")
    params = first.params
    assert (params.temperature, params.top_p, params.seed, params.max_tokens) == (0.5, 0.25, 7, 9)
    assert params.ignore_eos
    assert (second.params.max_tokens, second.params.ignore_eos, second.params.seed) == (CONTEXT - 12, False, None)


async def test_a_stop_string_ends_the_reply_and_the_request(served: Served) -> None:
    stream = await served.client.chat.completions.create(
        model="tiny", messages=HELLO, stop=["END"], stream=True, stream_options={"include_usage": True}
    )
    request = await served.engine.next()
    for part in (b"some text E", b"N", b"D and what follows"):
        request.make(part)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "some text "
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(b"some text END")
    assert request.cancelled.is_set()


async def test_a_character_is_never_split(served: Served) -> None:
    stream = await served.client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    request = await served.engine.next()
    for byte in "é한🐱\u2028\x85".encode():
        request.make([byte])
        await asyncio.sleep(0.005)
    request.make([], "stop")
    pieces = [chunk.choices[0].delta.content async for chunk in stream]
    assert [piece for piece in pieces if piece] == ["é", "한", "🐱", "\u2028", "\x85"]


async def test_an_error_in_the_middle_of_a_stream_raises_in_the_client(served: Served) -> None:
    stream = await served.client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    request = await served.engine.next()
    request.make(b"half a re")
    request.make([], "error", "rank 1 is gone")
    text = ""

    async def read() -> None:
        nonlocal text
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""

    with pytest.raises(openai.APIError, match="rank 1 is gone"):
        await read()
    assert text == "half a re"
    lines = asyncio.create_task(stream_lines(served, "/v1/chat/completions", {"messages": HELLO}))
    (await served.engine.next()).make([], "error", "rank 1 is gone")
    last = (await lines)[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"


async def test_an_error_before_a_whole_reply_is_a_503(served: Served) -> None:
    asked = asyncio.create_task(served.client.chat.completions.create(model="tiny", messages=HELLO))
    (await served.engine.next()).make(b"half", "error", "rank 1 is gone")
    with pytest.raises(openai.InternalServerError, match="rank 1 is gone") as caught:
        await asked
    assert caught.value.status_code == 503


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_cancels_its_request(served: Served, stream: bool) -> None:
    body = {"messages": HELLO, "stream": stream}
    asked = asyncio.create_task(served.http.post("/v1/chat/completions", json=body))
    request = await served.engine.next()
    request.make(b"some")
    await asyncio.sleep(0.02)
    asked.cancel()
    await asyncio.wait_for(request.cancelled.wait(), 1)
    served.engine.replies = [b"ok"]
    reply = await served.client.chat.completions.create(model="tiny", messages=HELLO)
    assert reply.choices[0].message.content == "ok"


async def test_a_slow_reader_holds_up_nobody(served: Served) -> None:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", served.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    body = json.dumps({"messages": HELLO, "stream": True, "max_tokens": 300}).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    slow = await served.engine.next()
    for _ in range(600):
        slow.make(b"~" * 400)
        await asyncio.sleep(0)
    served.engine.replies = [b"ok"]
    reply = await asyncio.wait_for(served.client.chat.completions.create(model="tiny", messages=HELLO), 2)
    assert reply.choices[0].message.content == "ok"
    slow.make([], "stop")
    received = b""
    while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        received += await asyncio.wait_for(reader.read(65536), 2)
    assert received.count(b"~") == 240_000
    writer.close()
    await writer.wait_closed()


async def test_errors_have_openai_s_shape(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await served.client.chat.completions.create(model="tiny", messages=HELLO, temperature=3)
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    for body in (b"{", b"[]", b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b""):
        response = await served.http.post("/v1/chat/completions", content=body)
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert (await served.http.get("/v1/nothing")).json()["error"]["code"] == "not_found"
    assert (await served.http.get("/v1/chat/completions")).status_code == 405
    assert not served.engine.submitted


async def test_fault_29_a_prompt_beyond_the_context_names_both_numbers(served: Served) -> None:
    for length, fits in ((CONTEXT - 8, True), (CONTEXT - 7, False), (CONTEXT * 20, False)):
        served.engine.replies = [b"x"]
        messages = [{"role": "user", "content": "a" * (length)}]
        response = await served.http.post("/v1/chat/completions", json={"messages": messages})
        assert (response.status_code == 200) == fits
        if not fits:
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
            assert f" {CONTEXT} " in error["message"]
            assert f" {length + 7} " in error["message"]


async def test_a_full_queue_is_a_429_with_a_time(served: Served) -> None:
    served.engine.full = True
    with pytest.raises(openai.RateLimitError) as caught:
        await served.client.chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "3"


async def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    response = await served.http.post("/v1/chat/completions", content=b" " * 2_000_000)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")

    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(20):
            yield b" " * 10_000

    response = await served.http.post("/v1/chat/completions", content=pieces())
    assert response.status_code == 413


async def test_before_the_model_is_there(loading: Served) -> None:
    response = await loading.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "loading")
    response = await loading.http.post("/v1/chat/completions", json={"messages": HELLO})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_loading")
    assert "max_model_len" not in (await loading.http.get("/v1/models")).json()["data"][0]
    loading.load()
    response = await loading.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ok")


async def test_a_dead_engine_is_not_healthy(served: Served) -> None:
    served.engine.failure = "rank 1 is gone"
    with pytest.raises(openai.InternalServerError, match="rank 1 is gone"):
        await served.client.chat.completions.create(model="tiny", messages=HELLO)
    response = await served.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "failed")


async def test_stopping_lets_replies_finish_and_ends_the_rest(served: Served) -> None:
    quick = asyncio.create_task(served.client.chat.completions.create(model="tiny", messages=HELLO))
    first = await served.engine.next()
    stuck = asyncio.create_task(served.client.chat.completions.create(model="tiny", messages=HELLO))
    await served.engine.next()
    stopping = asyncio.create_task(served.service.stop(0.3))
    await asyncio.sleep(0.05)
    assert (await served.http.get("/health")).json()["status"] == "stopping"
    first.make(b"done", "stop")
    assert (await quick).choices[0].message.content == "done"
    with pytest.raises(openai.InternalServerError, match="shutting down"):
        await stuck
    await stopping


async def test_models(served: Served) -> None:
    page = await served.client.models.list()
    assert [(model.id, model.object) for model in page.data] == [("tiny", "model")]
    assert (await served.http.get("/v1/models")).json()["data"][0]["max_model_len"] == CONTEXT
    assert (await served.client.models.retrieve("tiny")).id == "tiny"
    with pytest.raises(openai.NotFoundError):
        await served.client.models.retrieve("other")


async def test_tokenize_and_detokenize(served: Served) -> None:
    response = await served.http.post("/tokenize", json={"model": "tiny", "messages": HELLO})
    body = response.json()
    assert (body["count"], body["max_model_len"], body["tokens"]) == (12, CONTEXT, list(b"user: Hello\n"))
    assert (await served.http.post("/tokenize", json={"prompt": "é"})).json()["tokens"] == list("é".encode())
    assert (await served.http.post("/detokenize", json={"tokens": [72, 105]})).json() == {"prompt": "Hi"}
    assert (await served.http.post("/detokenize", json={"tokens": [9999]})).status_code == 400


async def test_a_key_guards_everything_but_probes(locked: Served) -> None:
    locked.engine.replies = [b"ok"]
    reply = await locked.client.chat.completions.create(model="tiny", messages=HELLO)
    assert reply.choices[0].message.content == "ok"
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer ü"},
    ):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        for path in ("/v1/models", "/v1/chat/completions", "/tokenize"):
            method = "GET" if path == "/v1/models" else "POST"
            response = await locked.http.request(method, path, headers=raw)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (await locked.http.get("/health")).status_code == 200
    assert (await locked.http.get("/metrics")).status_code == 200


async def test_metrics_count_outcomes(served: Served) -> None:
    served.engine.replies = [b"abc", b"abc"]
    await served.client.chat.completions.create(model="tiny", messages=HELLO)
    await served.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1)
    await served.http.post("/v1/chat/completions", json={})
    text = (await served.http.get("/metrics")).text
    for line in (
        'guildllama_engine_requests_total{outcome="stop"} 1.0',
        'guildllama_engine_requests_total{outcome="length"} 1.0',
        'guildllama_engine_requests_total{outcome="refused"} 1.0',
        "guildllama_engine_prompt_tokens_total 24.0",
        "guildllama_engine_reply_tokens_total 4.0",
        "guildllama_engine_first_token_seconds_count 2.0",
        "guildllama_engine_restarts_total 0.0",
    ):
        assert line in text.splitlines()


async def test_many_streams_at_once(served: Served) -> None:
    async def one(number: int) -> str:
        body = {"messages": [{"role": "user", "content": str(number)}], "stream": True}
        async with (
            httpx.AsyncClient(base_url=served.http.base_url, timeout=10) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            data = [json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: {")]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in data)

    asked = [asyncio.create_task(one(number)) for number in range(20)]
    await served.engine.count(20)
    for step in range(10):
        for request in served.engine.submitted:
            request.make(bytes([request.prompt[-2]]), "stop" if step == 9 else None)
        await asyncio.sleep(0)
    assert await asyncio.gather(*asked) == [str(number)[-1] * 10 for number in range(20)]
