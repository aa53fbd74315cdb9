"""The client against servers of several kinds: what it sends, and how it reads their answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bot.engine_client.client import EngineClient
from bot.engine_client.errors import ContextExceeded, translate
from bot.engine_client.messages import Delta, Finished, Message
from bot.errors import Busy, EngineRefused, EngineUnavailable
from tests.fakes.engine import FakeEngine

HELLO = [Message(role="user", content="hello there")]

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def ask(client: EngineClient, messages: list[Message] = HELLO, max_tokens: int = 50) -> tuple[str, Finished]:
    text, end = "", None
    stream = client.stream(messages, temperature=0.6, top_p=0.9, max_tokens=max_tokens, user="u1", cache_salt="s1")
    async for event in stream:
        if isinstance(event, Delta):
            text += event.text
        else:
            end = event
    assert end is not None
    return text, end


@asynccontextmanager
async def raw_server(answer: Answer) -> AsyncIterator[EngineClient]:
    """A client of a server that speaks no more HTTP than `answer` does."""

    closed: list[asyncio.Future[None]] = []

    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done = asyncio.get_running_loop().create_future()
        closed.append(done)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        done.set_result(None)

    server = await asyncio.start_server(answer_and_close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with EngineClient(f"http://127.0.0.1:{port}/v1", model="any") as client:
        yield client
    await asyncio.gather(*closed)
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def event_server(
    stream: bytes, size: int = 1000, *, ends: bool = True
) -> AsyncIterator[tuple[EngineClient, list[None]]]:
    """A client of a server that streams these bytes in pieces of `size`, and a list of its connections."""
    connections: list[None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(None)
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"/models" in head:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(stream), size):
                piece = stream[start : start + size]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            if not ends:
                await reader.read()
            writer.write(b"0\r\n\r\n")

    async with raw_server(answer) as client:
        yield client, connections


async def test_what_is_sent(client: EngineClient, engine: FakeEngine):
    assert await ask(client) == ("You said: hello there", Finished("stop", 6, 1))
    assert engine.requests[0].body == {
        "model": "fake-model",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.6,
        "top_p": 0.9,
        "max_tokens": 50,
        "user": "u1",
        "cache_salt": "s1",
    }
    assert client.context_length == 4096


async def test_over_a_unix_socket(tmp_path: Path):
    async with FakeEngine(uds=str(tmp_path / "e.sock")) as server, EngineClient(server.url, uds=server.uds) as client:
        assert (await ask(client))[0] == "You said: hello there"
        assert await client.ready()


async def test_proxies_of_the_environment_are_not_for_this_machine(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with EngineClient(engine.url) as client:
        assert (await ask(client))[0] == "You said: hello there"


class TestModel:
    async def test_the_one_that_is_served(self, engine: FakeEngine):
        async with EngineClient(engine.url) as client:
            assert await client.model() == "fake-model"
        async with EngineClient(engine.url, model="what the owner wrote") as client:
            assert await client.model() == "fake-model"

    async def test_the_configured_one_if_there_is_a_choice(self, engine: FakeEngine):
        engine.models = ["a", "b", "c"]
        async with EngineClient(engine.url, model="b") as client:
            assert await client.model() == "b"
        async with EngineClient(engine.url, model="z") as client:
            with pytest.raises(EngineRefused, match="does not exist"):
                await ask(client)

    async def test_a_server_without_a_list_is_asked_all_the_same(self, engine: FakeEngine):
        engine.lists_models = False
        for configured, used in ((None, "default"), ("llama", "llama")):
            async with EngineClient(engine.url, model=configured) as client:
                assert (await ask(client))[0] == "You said: hello there"
            assert engine.requests[-1].body["model"] == used

    async def test_none(self, engine: FakeEngine):
        engine.models = []
        async with EngineClient(engine.url) as client:
            with pytest.raises(EngineUnavailable, match="GUILDLLAMA_MODEL"):
                await client.model()

    async def test_a_server_that_changes_its_model(self, client: EngineClient, engine: FakeEngine):
        await ask(client)
        engine.models = ["another"]
        with pytest.raises(EngineRefused):
            await ask(client)
        assert (await ask(client))[0] == "You said: hello there"


class TestKeys:
    async def test_sent_everywhere(self, engine: FakeEngine):
        engine.api_key = "sesame"
        async with EngineClient(engine.url, "sesame") as client:
            await ask(client)
            counted = await client.count(HELLO)
            assert counted is not None
            assert counted.count == 6

    async def test_wrong(self, engine: FakeEngine):
        engine.api_key = "sesame"
        async with EngineClient(engine.url, "wrong") as client:
            with pytest.raises(EngineRefused) as caught:
                await ask(client)
        assert "sesame" not in str(caught.value)
        assert "log" in caught.value.user_message


class TestForeignServers:
    @pytest.mark.parametrize("field", ["cache_salt", "user", "stream_options"])
    async def test_a_rejected_field_is_left_out(self, client: EngineClient, engine: FakeEngine, field: str):
        engine.refused_fields = frozenset({field})
        text, end = await ask(client)
        assert text == "You said: hello there"
        assert end.prompt_tokens == (None if field == "stream_options" else 6)
        await ask(client)
        assert engine.calls.count("/v1/chat/completions") == 3  # the second time it knows
        assert all(field not in request.body for request in engine.requests)

    async def test_max_tokens_by_its_newer_name(self, client: EngineClient, engine: FakeEngine):
        engine.refused_fields = frozenset({"max_tokens"})
        await ask(client)
        assert engine.requests[0].body["max_completion_tokens"] == 50

    async def test_several_at_once(self, client: EngineClient, engine: FakeEngine):
        engine.refused_fields = frozenset({"cache_salt", "user", "stream_options"})
        assert (await ask(client))[0] == "You said: hello there"

    async def test_no_usage(self, client: EngineClient, engine: FakeEngine):
        engine.reply("a", "b", usage=False)
        assert await ask(client) == ("ab", Finished("stop", None, None))

    async def test_no_tokenize_is_asked_once(self, client: EngineClient, engine: FakeEngine):
        engine.tokenize = False
        assert await client.count(HELLO) is None
        assert await client.count(HELLO) is None
        assert engine.calls.count("/tokenize") == 1


class TestReady:
    async def test_health(self, client: EngineClient, engine: FakeEngine):
        assert await client.ready()
        engine.healthy = False
        assert not await client.ready()

    async def test_no_server_there(self, client: EngineClient, engine: FakeEngine):
        await engine.stop()
        assert not await client.ready()

    async def test_a_silent_server_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("bot.engine_client.client._HEALTH_SECONDS", 0.2)

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with raw_server(say_nothing) as client:
            assert not await asyncio.wait_for(client.ready(), 5)


class TestTrouble:
    async def test_nothing_is_sent_twice(self, client: EngineClient, engine: FakeEngine):
        await ask(client)
        engine.drop()
        with pytest.raises(EngineUnavailable):
            await ask(client)
        engine.fail(500)
        with pytest.raises(EngineUnavailable):
            await ask(client)
        engine.fail(429, Retry_After="1")
        with pytest.raises(Busy):
            await ask(client)
        assert len(engine.requests) == 4

    async def test_leaving_cancels_the_generation(self, client: EngineClient, engine: FakeEngine):
        engine.hang("one")
        stream = client.stream(HELLO, temperature=0.6, top_p=0.9, max_tokens=9, user="u", cache_salt="s")
        assert await anext(stream) == Delta("one")
        await stream.aclose()
        await engine.cancelled(0)

    @pytest.mark.parametrize("header", ["soon", "-1", "nan", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT"])
    async def test_a_retry_after_that_is_no_number_of_seconds(
        self, client: EngineClient, engine: FakeEngine, header: str
    ):
        engine.fail(429, Retry_After=header)
        with pytest.raises(Busy, match="in a moment"):
            await ask(client)

    async def test_something_else_listens_there(self):
        async def html(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello")
            await writer.drain()

        async with raw_server(html) as client:
            with pytest.raises(EngineUnavailable):
                await ask(client)


class TestEvents:
    """Streams of bytes as no sane server would cut them."""

    HELLO = (
        ': a comment\r\ndata: {"choices": [{"delta": {"content": "a"}}]}\r\n\r\nevent: message\ndata:{"choices":\n'
        'data: [{"delta": {"content": "b ü"}}]}\n\n\ndata: {"choices": [{"finish_reason": "stop"}]}\n\n'
    ).encode()

    async def test_the_same_events_however_they_are_cut(self):
        for size in (1, 2, 7, 1000):
            async with event_server(self.HELLO + b"data: [DONE]\n\n", size) as (client, _):
                assert await ask(client) == ("ab ü", Finished("stop", None, None))

    async def test_a_stream_that_ends_inside_an_event(self):
        async with event_server(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: {"choices": [{"fin') as (
            client,
            _,
        ):
            with pytest.raises(EngineUnavailable, match="no finish_reason"):
                await ask(client)

    @pytest.mark.parametrize("event", ["[1]", "5", "{", "hello"])
    async def test_an_event_that_is_no_object(self, event: str):
        async with event_server(f"data: {event}\n\n".encode()) as (client, _):
            with pytest.raises(EngineRefused):
                await ask(client)

    @pytest.mark.parametrize("error", ['{"message": "out of memory", "code": 500}', '"out of memory"'])
    async def test_an_error_event_keeps_its_words(self, error: str):
        async with event_server(f'data: {{"error": {error}}}\n\n'.encode()) as (client, _):
            with pytest.raises(EngineUnavailable, match="out of memory"):
                await ask(client)

    async def test_the_connection_is_used_again(self):
        async with event_server(self.HELLO + b"data: [DONE]\n\n") as (client, connections):
            await ask(client)
            await ask(client)
        assert len(connections) == 1

    async def test_a_response_that_does_not_end_after_done(self):
        async with event_server(self.HELLO + b"data: [DONE]\n\n", ends=False) as (client, _):
            assert (await asyncio.wait_for(ask(client), 5))[0] == "ab ü"


class TestContextNumbers:
    @pytest.mark.parametrize("style", ["openai", "vllm", "llama.cpp"])
    async def test_read_out_of_every_wording(self, client: EngineClient, engine: FakeEngine, style: str):
        engine.context, engine.overflow = 100, style
        with pytest.raises(ContextExceeded) as caught:
            await ask(client, [Message(role="user", content="word " * 150)])
        assert (caught.value.context_length, caught.value.num_prompt_tokens) == (100, 154)

    @pytest.mark.parametrize(
        ("message", "limit", "got"),
        [
            ("The prompt takes 5,000 tokens, and the context holds 4,096.", 4096, 5000),
            ("prompt is too long: 8300 tokens > 8192 maximum context length", 8192, 8300),
            (
                "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens.",
                4096,
                5000,
            ),
            ("Input is longer than the context window", 0, 0),
        ],
    )
    def test_prose(self, message: str, limit: int, got: int):
        import httpx2
        import openai

        response = httpx2.Response(400, request=httpx2.Request("POST", "http://x/v1"))
        body = {"message": message, "code": "context_length_exceeded"}
        result = translate(openai.BadRequestError(message, response=response, body=body))
        assert isinstance(result, ContextExceeded)
        assert (result.context_length, result.num_prompt_tokens) == (limit, got)
