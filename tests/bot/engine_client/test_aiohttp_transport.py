"""Requests that go over aiohttp: the environment's proxies, and the pace at which a stream is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from aiohttp import web

from bot.engine_client.http.aiohttp_transport import BODY_ENDED, AiohttpTransport
from bot.engine_client.stream import event_stream
from tests.fakes.engine.wire import WireServer


@pytest.fixture
async def asked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """The first lines of the requests that reach the environment's proxy."""
    lines: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield lines


async def get(url: str, *, environment_proxies: bool) -> str:
    transport = AiohttpTransport(environment_proxies=environment_proxies)
    async with httpx2.AsyncClient(transport=transport) as client:
        return (await client.get(url)).text


async def test_the_environments_proxy_is_used_where_asked_for(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await get("http://engine.invalid/v1/models", environment_proxies=True) == "ok"
    assert asked == ["GET http://engine.invalid/v1/models HTTP/1.1"]
    with pytest.raises(httpx2.ConnectError):
        await get("http://engine.invalid/v1/models", environment_proxies=False)
    monkeypatch.setenv("no_proxy", "engine.invalid")
    with pytest.raises(httpx2.ConnectError):
        await get("http://engine.invalid/v1/models", environment_proxies=True)
    assert len(asked) == 1


async def test_why_there_is_no_connection() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 no TLS here\r\n")
        writer.close()

    with pytest.raises(httpx2.ConnectError, match=r"^Connection refused$"):
        await get("http://127.0.0.1:9/v1", environment_proxies=False)
    with pytest.raises(httpx2.ConnectError, match=r"not known|No address"):
        await get("http://engine.invalid/v1", environment_proxies=False)
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        with pytest.raises(httpx2.ConnectError, match=r"SSL"):
            await get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", environment_proxies=False)


async def test_what_came_before_the_connection_broke_is_read() -> None:
    """Also if nobody was reading when it broke: the reply may be complete although its server does not end it."""
    reading, broken = asyncio.Event(), asyncio.Event()

    async def answer(body: dict[str, object], request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one ")
        await reading.wait()
        await response.write(b"two ")
        await response.write(b"three")
        assert request.transport is not None
        request.transport.close()
        broken.set()
        return response

    pieces: list[bytes] = []
    async with (
        WireServer(answer) as server,
        httpx2.AsyncClient(transport=AiohttpTransport()) as client,
        client.stream("POST", f"{server.url}/chat/completions", json={}) as response,
    ):
        arriving = response.aiter_bytes()
        pieces.append(await anext(arriving))
        reading.set()
        await broken.wait()
        await asyncio.sleep(0.05)
        pieces.append(await anext(arriving))
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(arriving)
    assert b"".join(pieces) == b"one two three"


async def read_slowly() -> list[bytes]:
    """The pieces in which a stream of a hundred numbers is read that come one by one."""

    async def answer(body: dict[str, object], request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(100):
            await response.write(b"%d " % number)
            await asyncio.sleep(0.003)
        return response

    async with (
        WireServer(answer) as server,
        httpx2.AsyncClient(transport=AiohttpTransport()) as client,
        client.stream("POST", f"{server.url}/chat/completions", json={}) as response,
    ):
        ended = response.extensions[BODY_ENDED]
        pieces = [piece async for piece in event_stream._paced(response.aiter_bytes(), ended)]
    assert b"".join(pieces).split() == [b"%d" % number for number in range(100)]
    return pieces


async def test_a_slow_stream_is_read_in_few_pieces() -> None:
    assert len(await read_slowly()) < 40


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_PACE_SECONDS", 300.0)
    monkeypatch.setattr(event_stream, "_PACE_SHARE", 1e9)


async def test_a_pause_ends_once_all_has_arrived(long_pauses: None) -> None:
    async with asyncio.timeout(30):
        assert len(await read_slowly()) == 2  # the first one, and all others at the end


async def test_many_bytes_are_read_without_a_pause(long_pauses: None) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(event_stream._PACED_BYTES)

    async with asyncio.timeout(30):
        assert len([piece async for piece in event_stream._paced(pieces(), None)]) == 20
