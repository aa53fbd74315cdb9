"""The HTTP layer through real sockets with the openai client: bodies, errors, cancellation, slow readers."""

import asyncio
import json
import socket
from typing import Any

import httpx
import openai
import pytest

from engine.load_progress import PREPARING, READING
from tests.engine.server.conftest import API_KEY, Served, serve
from tests.engine.server.scripted_engine import MAX_CONTEXT

HELLO = [{"role": "user", "content": "Hello"}]
JSON = {"content-type": "application/json"}


async def stream_lines(served: Served, path: str, body: dict[str, object]) -> list[str]:
    async with served.http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return [line async for line in response.aiter_lines() if line]


async def test_a_chat_response_that_is_not_streamed(served: Served) -> None:
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


async def test_an_interval_gathers_tokens_and_delays_neither_the_first_nor_the_end() -> None:
    received: list[str] = []
    async with serve(stream_interval=3600) as served:
        served.load()
        stream = await served.client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        request = await served.engine.next_request()
        request.deliver(b"a")
        async for chunk in stream:
            if text := chunk.choices[0].delta.content:
                received.append(text)
                if len(received) == 1:
                    for letter in b"bcdefgh":
                        request.deliver([letter])
                        await asyncio.sleep(0.01)
                    request.deliver(b"i", "stop")
    assert received == ["a", "bcdefghi"]


async def test_what_an_interval_gathered_is_sent_at_its_end() -> None:
    async with serve(stream_interval=0.05) as served:
        served.load()
        stream = await served.client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        request = await served.engine.next_request()
        texts = (text async for chunk in stream if (text := chunk.choices[0].delta.content))
        for text in "abc":  # each arrives though nothing follows it
            request.deliver(text.encode())
            assert await anext(texts) == text
        request.deliver(b"", "stop")
        assert [text async for text in texts] == []


async def test_usage_is_the_last_chunk_if_the_client_asks_for_it(served: Served) -> None:
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
    full = await served.client.completions.create(model="tiny", prompt="Say")
    assert (full.choices[0].text, full.choices[0].finish_reason, full.object) == ("abc", "stop", "text_completion")
    stream = await served.client.completions.create(model="tiny", prompt=[72, 105], stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "def"
    assert [request.prompt for request in served.engine.submitted] == [tuple(b"Say"), (72, 105)]
    assert served.engine.submitted[0].params.max_tokens == 16
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        await served.client.completions.create(model="tiny", prompt=[5000])


async def test_the_fields_that_reach_the_engine(served: Served) -> None:
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
    assert (second.params.max_tokens, second.params.ignore_eos, second.params.seed) == (MAX_CONTEXT - 12, False, None)


async def test_a_stop_string_ends_the_reply_and_the_request(served: Served) -> None:
    stream = await served.client.chat.completions.create(
        model="tiny", messages=HELLO, stop=["END"], stream=True, stream_options={"include_usage": True}
    )
    request = await served.engine.next_request()
    for part in (b"some text E", b"N", b"D and what follows"):
        request.deliver(part)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "some text "
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(b"some text END")
    assert request.cancelled.is_set()


async def test_a_character_is_never_split(served: Served) -> None:
    stream = await served.client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    request = await served.engine.next_request()
    for byte in "é한🐱\u2028\x85".encode():
        request.deliver([byte])
        await asyncio.sleep(0.005)
    request.deliver([], "stop")
    pieces = [chunk.choices[0].delta.content async for chunk in stream]
    assert [piece for piece in pieces if piece] == ["é", "한", "🐱", "\u2028", "\x85"]


async def test_an_error_in_the_middle_of_a_stream_raises_in_the_client(served: Served) -> None:
    stream = await served.client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    request = await served.engine.next_request()
    request.deliver(b"half a re")
    request.deliver([], "error", "rank 1 is gone")
    text = ""

    async def read() -> None:
        nonlocal text
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""

    with pytest.raises(openai.APIError, match="rank 1 is gone"):
        await read()
    assert text == "half a re"
    lines = asyncio.create_task(stream_lines(served, "/v1/chat/completions", {"messages": HELLO}))
    (await served.engine.next_request()).deliver([], "error", "rank 1 is gone")
    last = (await lines)[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"


async def test_an_error_in_a_response_that_is_not_streamed_is_a_503(served: Served) -> None:
    asked = asyncio.create_task(served.client.chat.completions.create(model="tiny", messages=HELLO))
    (await served.engine.next_request()).deliver(b"half", "error", "rank 1 is gone")
    with pytest.raises(openai.InternalServerError, match="rank 1 is gone") as caught:
        await asked
    assert caught.value.status_code == 503


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_cancels_its_request(served: Served, stream: bool) -> None:
    body = {"messages": HELLO, "stream": stream}
    asked = asyncio.create_task(served.http.post("/v1/chat/completions", json=body))
    request = await served.engine.next_request()
    request.deliver(b"some")
    await asyncio.sleep(0.02)
    asked.cancel()
    await asyncio.wait_for(request.cancelled.wait(), 1)
    served.engine.replies = [b"ok"]
    reply = await served.client.chat.completions.create(model="tiny", messages=HELLO)
    assert reply.choices[0].message.content == "ok"


async def test_a_slow_reader_does_not_delay_other_clients(served: Served) -> None:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", served.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    fields = {"stream": True, "max_tokens": 300, "repetition_guard": False}
    body = json.dumps({"messages": HELLO, **fields}).encode()
    head = b"host: localhost\r\ncontent-type: application/json\r\ncontent-length: %d" % len(body)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n%s\r\n\r\n%s" % (head, body))
    slow = await served.engine.next_request()
    for _ in range(600):
        slow.deliver(b"~" * 400)
        await asyncio.sleep(0)
    served.engine.replies = [b"ok"]
    reply = await asyncio.wait_for(served.client.chat.completions.create(model="tiny", messages=HELLO), 2)
    assert reply.choices[0].message.content == "ok"
    slow.deliver([], "stop")
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
        response = await served.http.post("/v1/chat/completions", content=body, headers=JSON)
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert (await served.http.get("/v1/nothing")).json()["error"]["code"] == "not_found"
    assert (await served.http.get("/v1/chat/completions")).status_code == 405
    assert not served.engine.submitted


async def test_fault_29_a_prompt_beyond_the_context_names_both_numbers(served: Served) -> None:
    for length, fits in ((MAX_CONTEXT - 8, True), (MAX_CONTEXT - 7, False), (MAX_CONTEXT * 20, False)):
        served.engine.replies = [b"x"]
        messages = [{"role": "user", "content": "a" * (length)}]
        response = await served.http.post("/v1/chat/completions", json={"messages": messages})
        assert (response.status_code == 200) == fits
        if not fits:
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
            assert f" {MAX_CONTEXT} " in error["message"]
            assert f" {length + 7} " in error["message"]


async def test_a_full_queue_is_a_429_with_retry_after(served: Served) -> None:
    served.engine.busy = True
    with pytest.raises(openai.RateLimitError) as caught:
        await served.client.chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "3"


async def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    response = await served.http.post("/v1/chat/completions", content=b" " * 2_000_000, headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")

    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(20):
            yield b" " * 10_000

    response = await served.http.post("/v1/chat/completions", content=pieces(), headers=JSON)
    assert response.status_code == 413


async def test_requests_before_the_model_is_loaded(loading: Served) -> None:
    response = await loading.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "loading")
    response = await loading.http.post("/v1/chat/completions", json={"messages": HELLO})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_loading")
    progress = loading.service._progress
    reading = progress.begin(READING, 3000)
    reading.advance(1299)
    body = (await loading.http.get("/health")).json()
    assert body["detail"] == "The model is being loaded: reading weights, 43 %."
    assert body["progress"] == {"stage": "reading weights", "percent": 43}
    reading.advance(1701)
    progress.begin(PREPARING)
    body = (await loading.http.get("/health")).json()
    assert (body["detail"], body["progress"]["percent"]) == ("The model is being loaded: preparing the device.", None)
    assert "max_model_len" not in (await loading.http.get("/v1/models")).json()["data"][0]
    loading.load()
    response = await loading.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ok")
    assert "progress" not in (await loading.http.get("/health")).json()


async def test_a_failed_engine_is_not_healthy(served: Served) -> None:
    served.engine.failure = "rank 1 is gone"
    with pytest.raises(openai.InternalServerError, match="rank 1 is gone"):
        await served.client.chat.completions.create(model="tiny", messages=HELLO)
    response = await served.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "failed")


async def test_a_shutdown_gives_responses_time_and_ends_the_rest(served: Served) -> None:
    quick = asyncio.create_task(served.client.chat.completions.create(model="tiny", messages=HELLO))
    first = await served.engine.next_request()
    stuck = asyncio.create_task(served.client.chat.completions.create(model="tiny", messages=HELLO))
    await served.engine.next_request()
    stopping = asyncio.create_task(served.service.stop(0.3))
    await asyncio.sleep(0.05)
    assert (await served.http.get("/health")).json()["status"] == "stopping"
    first.deliver(b"done", "stop")
    assert (await quick).choices[0].message.content == "done"
    with pytest.raises(openai.InternalServerError, match="shutting down"):
        await stuck
    await stopping


async def test_models(served: Served) -> None:
    page = await served.client.models.list()
    assert [(model.id, model.object) for model in page.data] == [("tiny", "model")]
    assert (await served.http.get("/v1/models")).json()["data"][0]["max_model_len"] == MAX_CONTEXT
    assert (await served.client.models.retrieve("tiny")).id == "tiny"
    with pytest.raises(openai.NotFoundError):
        await served.client.models.retrieve("other")


async def test_tokenize_and_detokenize(served: Served) -> None:
    response = await served.http.post("/tokenize", json={"model": "tiny", "messages": HELLO})
    body = response.json()
    assert (body["count"], body["max_model_len"], body["tokens"]) == (12, MAX_CONTEXT, list(b"user: Hello\n"))
    assert (await served.http.post("/tokenize", json={"prompt": "é"})).json()["tokens"] == list("é".encode())
    assert (await served.http.post("/detokenize", json={"tokens": [72, 105]})).json() == {"prompt": "Hi"}
    assert (await served.http.post("/detokenize", json={"tokens": [9999]})).status_code == 400


async def test_erase(served: Served) -> None:
    erased = await served.http.post("/cache/erase", json={"cache_salt": "a guild"})
    assert (erased.status_code, erased.json()) == (200, {"object": "cache.erasure", "erased_pages": 7})
    assert served.engine.erased == ["a guild"]
    for body in ({}, {"cache_salt": 3}, {"cache_salt": "x" * 513}):
        assert (await served.http.post("/cache/erase", json=body)).status_code == 400
    served.engine.failure = "broken"
    assert (await served.http.post("/cache/erase", json={"cache_salt": "a"})).status_code == 503
    assert served.engine.erased == ["a guild"]


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "You are a test."}]])
async def test_attack_one_request_says_how_much_of_a_dialog_fits(served: Served, system: list[dict[str, str]]) -> None:
    dialog = [
        {"role": role, "content": f"{number} " + "w" * (number * 5 % 23)}
        for number in range(12)
        for role in ("user", "assistant")
    ]
    messages = [*system, *dialog, *HELLO]

    async def count(part: list[dict[str, str]], **more: object) -> dict[str, Any]:
        return dict((await served.http.post("/tokenize", json={"messages": part, **more})).json())

    wholes = [(await count([*system, *dialog[start:], *HELLO]))["count"] for start in range(0, 25, 2)]
    for room in {1, *wholes, *(whole - 1 for whole in wholes), 10**6}:
        fitting = await count(messages, max_prompt_tokens=room)
        dropped = next((2 * pairs for pairs, whole in enumerate(wholes) if whole <= room), 24)
        assert (fitting["dropped_messages"], fitting["count"]) == (dropped, wholes[dropped // 2])
        assert len(fitting["tokens"]) == fitting["count"]
    assert (await served.http.post("/tokenize", json={"messages": HELLO, "max_prompt_tokens": 0})).status_code == 400


async def test_attack_a_dialog_far_beyond_the_context_is_cut_before_it_is_encoded(served: Served) -> None:
    pair = [{"role": "user", "content": "x" * 4000}, {"role": "assistant", "content": "y" * 4000}]
    response = await served.http.post("/tokenize", json={"messages": [*pair * 11, *HELLO], "max_prompt_tokens": 50})
    assert response.status_code == 200, response.text
    assert (response.json()["count"], response.json()["dropped_messages"]) == (12, 22)


async def test_a_key_is_required_except_for_health_and_metrics(with_key: Served) -> None:
    with_key.engine.replies = [b"ok"]
    reply = await with_key.client.chat.completions.create(model="tiny", messages=HELLO)
    assert reply.choices[0].message.content == "ok"
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {API_KEY}"},
        {"authorization": "Bearer ü"},
    ):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        for path in ("/v1/models", "/v1/chat/completions", "/tokenize", "/cache/erase"):
            method = "GET" if path == "/v1/models" else "POST"
            response = await with_key.http.request(method, path, headers=raw)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert not with_key.engine.erased
    assert (await with_key.http.get("/health")).status_code == 200
    assert (await with_key.http.get("/metrics")).status_code == 200


async def test_metrics_count_requests_by_outcome(served: Served) -> None:
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
    await served.engine.wait_for_requests(20)
    for step in range(10):
        for request in served.engine.submitted:
            request.deliver(bytes([request.prompt[-2]]), "stop" if step == 9 else None)
        await asyncio.sleep(0)
    assert await asyncio.gather(*asked) == [str(number)[-1] * 10 for number in range(20)]
