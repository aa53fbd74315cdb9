"""Servers that send too much, or leave: what is read, and what is asked again."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import tracemalloc
from collections.abc import Callable

import pytest
from aiohttp import web

from bot.engine_client.client import EngineClient
from bot.errors import EngineRefused, EngineUnavailable, EngineUnreadable
from tests.bot.engine_client.wire_kit import ask, ask_once
from tests.fakes.engine.wire import OK, Answer, WireServer, endless

MIB = 1 << 20
BOMB = gzip.compress(b"z" * (100 * MIB))


def packed(body: bytes, status: int, encoding: str = "gzip") -> web.Response:
    """A response that is packed although nobody asked for it."""
    return web.Response(
        body=body, status=status, headers={"Content-Encoding": encoding, "Content-Type": "text/event-stream"}
    )


async def test_attack_an_error_body_without_end():
    taken = 0

    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        nonlocal taken
        response = web.StreamResponse(status=400)
        await response.prepare(request)
        await response.write(b"so long: ")
        for _ in range(100):
            await response.write(b"e" * MIB)
            taken += 1
        return response

    tracemalloc.start()
    try:
        with pytest.raises(EngineRefused, match="so long") as caught:
            await asyncio.wait_for(ask_once(answer), 10)
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()
    assert taken < 20
    assert len(caught.value.reason) < 300


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_attack_an_error_that_unpacks_to_more_than_its_bound(status: int):
    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        return packed(BOMB, status)

    tracemalloc.start()
    try:
        with pytest.raises(EngineUnavailable, match=f"HTTP {status}: zzz"):
            await ask_once(answer)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


async def test_a_packed_error_and_a_packed_stream_are_read_all_the_same():
    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        if "cache_salt" in sent:
            return packed(gzip.compress(json.dumps({"error": "unknown field: cache_salt"}).encode()), 400)
        return packed(gzip.compress(OK), 200)

    assert (await ask_once(answer))[0] == "ok"


async def test_attack_a_stream_that_unpacks_to_more_than_its_bound_lets_others_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bot.engine_client.stream.event_stream.STREAM_BYTES", 8 * MIB)
    body = gzip.compress(b": ping\n\n" * (2 * MIB))

    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        return packed(body, 200)

    async def longest_wait() -> float:
        loop, longest = asyncio.get_running_loop(), 0.0
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                before = loop.time()
                await asyncio.sleep(0.005)
                longest = max(longest, loop.time() - before)
        return longest

    async with WireServer(answer) as server, EngineClient(server.url) as client:
        watch = asyncio.create_task(longest_wait())
        with pytest.raises(EngineUnreadable, match="more than"):
            await ask(client)
        watch.cancel()
        assert await watch < 0.5


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip", "deflate", "nonsense"])
async def test_attack_an_answer_that_cannot_be_unpacked(encoding: str):
    async def stream(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        return packed(b"\x1f\x8b no such thing", 200, encoding)

    async def refuse(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        return packed(b"\x1f\x8b no such thing", 401, encoding)

    with pytest.raises(EngineUnreadable):
        await ask_once(stream)
    with pytest.raises(EngineRefused, match="HTTP 401"):
        await ask_once(refuse)


@pytest.mark.parametrize("models", [[[]], "text", 5, {"data": "x"}, {"data": [{"id": 5}]}])
async def test_attack_a_list_of_models_that_is_none(models: object):
    async with WireServer() as server, EngineClient(server.url) as client:
        server.models = models
        with pytest.raises(EngineRefused, match="GUILDLLAMA_MODEL"):
            await ask(client)


async def test_attack_memory_after_hostile_replies():
    def huge(sent: dict[str, object], request: web.Request) -> web.Response:
        return web.Response(status=400, text="e" * (4 * MIB))

    async def answer(sent: dict[str, object], request: web.Request) -> web.StreamResponse:
        turn = len(server.bodies) % 3
        return [huge(sent, request), packed(BOMB[:65536], 500), packed(b"data: " + b"x" * (2 * MIB), 200, "identity")][
            turn
        ]

    async with WireServer(answer) as server, EngineClient(server.url) as client:

        async def hostile(count: int) -> None:
            for _ in range(count):
                with pytest.raises(EngineUnavailable):
                    await ask(client)

        await hostile(9)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await hostile(100)
            server.bodies.clear()
            assert tracemalloc.get_traced_memory()[0] - before < 2 * MIB
        finally:
            tracemalloc.stop()


class TestStaleConnections:
    """A server that answers once or more, and then leaves on the second request of its first connection."""

    async def _ask_twice(self, answer_again: bytes) -> tuple[list[str], int]:
        asked = 0
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            writers.append(writer)
            number, chats = len(writers), 0
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    if b"/models" in head:
                        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                        continue
                    await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
                    asked += 1
                    chats += 1
                    if number == 1 and chats == 2:
                        writer.write(answer_again)
                        await writer.drain()
                        break
                    writer.write(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b"
                        % (len(OK), OK)
                    )
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        said: list[str] = []
        async with EngineClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", model="any") as client:
            for _ in range(2):
                try:
                    said.append((await ask(client))[0])
                except EngineUnavailable:
                    said.append("error")
        for writer in writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return said, asked

    async def test_attack_a_kept_connection_that_closes_before_the_answer_is_asked_once_more(self):
        assert await self._ask_twice(b"") == (["ok", "ok"], 3)

    @pytest.mark.parametrize(
        "began",
        [
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"nonsense\r\n\r\n",
        ],
    )
    async def test_attack_never_after_the_answer_began(self, began: bytes):
        assert await self._ask_twice(began) == (["ok", "error"], 2)

    async def test_attack_never_on_a_connection_of_its_own(self):
        async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            if b"POST" in await reader.readuntil(b"\r\n\r\n"):
                connections += 1
            else:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        connections = 0
        server = await asyncio.start_server(leave, "127.0.0.1", 0)
        async with EngineClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", model="any") as client:
            with pytest.raises(EngineUnavailable):
                await ask(client)
        server.close()
        await server.wait_closed()
        assert connections == 1


@pytest.mark.parametrize(
    "make",
    [lambda: endless(b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n' * 2000), lambda: endless(b":" * 9999)],
)
async def test_attack_a_stream_without_text_or_end(make: Callable[[], Answer], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bot.engine_client.stream.event_stream.STREAM_BYTES", 8 * MIB)
    with pytest.raises(EngineUnreadable, match="more than"):
        await asyncio.wait_for(ask_once(make()), 60)
