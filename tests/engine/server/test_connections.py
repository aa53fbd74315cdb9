"""Clients that begin requests and do not finish them: they time out, and shut nobody out."""

import asyncio
import json
import time

import pytest

from engine.server import connections, reading
from tests.engine.server.conftest import Served

BODY = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HALF_BODY = HEAD + b"Content-Length: 5000\r\n\r\n" + BODY[:20]
HALF_CHUNK = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(served: Served, data: bytes) -> Connection:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(data)
    return reader, writer


async def answer(connection: Connection, timeout: float = 5) -> bytes:
    """All that comes until the server closes the connection."""
    reader, writer = connection
    try:
        return await asyncio.wait_for(reader.read(), timeout)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_TIMEOUT", 0.3)
    monkeypatch.setattr(reading, "BODY_GRACE", 0.3)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("data", [HALF_HEAD, b"G", HALF_BODY, HALF_CHUNK], ids=["head", "byte", "body", "chunk"])
async def test_attack_a_request_that_does_not_come_completely_times_out(served: Served, data: bytes) -> None:
    text = await answer(await connect(served, data))
    assert text.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in text.lower()
    assert not served.engine.submitted


@pytest.mark.usefixtures("impatient")
async def test_attack_a_connection_without_a_request_is_closed(served: Served) -> None:
    assert await answer(await connect(served, b"")) == b""


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("start", [HALF_HEAD, HALF_BODY], ids=["head", "body"])
async def test_attack_a_byte_now_and_then_keeps_no_connection_open(served: Served, start: bytes) -> None:
    reader, writer = await connect(served, start)
    started = time.monotonic()

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    text = await answer((reader, writer))
    dripping.cancel()
    assert time.monotonic() - started < 2
    assert text == b"" or text.startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("impatient")
async def test_attack_the_second_request_of_a_connection_times_out_too(served: Served) -> None:
    served.engine.replies = [b"ok"]
    reader, writer = await connect(served, WHOLE)
    assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"}}}")
    await asyncio.sleep(0.5)  # an idle connection stays
    writer.write(HALF_HEAD)
    assert (await answer((reader, writer))).startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("impatient")
async def test_a_slow_but_steady_body_and_a_slow_reply_are_no_timeouts(served: Served) -> None:
    reader, writer = await connect(served, WHOLE[:-10])
    await asyncio.sleep(0.15)
    writer.write(WHOLE[-10:])
    request = await served.engine.next_request()
    await asyncio.sleep(0.8)
    request.deliver(b"done", "stop")
    assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("data", [HALF_HEAD, HALF_BODY, b""], ids=["head", "body", "nothing"])
async def test_attack_400_half_sent_requests_shut_nobody_out(
    served: Served, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 40)
    streaming = await connect(served, WHOLE)
    request = await served.engine.next_request()
    half = [await connect(served, data) for _ in range(400)]
    started = time.monotonic()
    for _ in range(5):
        served.engine.replies = [b"ok"]
        text = await answer(await connect(served, WHOLE.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)))
        assert text.startswith(b"HTTP/1.1 200 OK")
    assert time.monotonic() - started < 2
    request.deliver(b"still here", "stop")  # the one that was being answered was not closed
    assert b"still here" in await streaming[0].readuntil(b"}}}")
    for _, writer in [*half, streaming]:
        writer.close()


async def test_attack_more_running_requests_than_connections_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 10)
    running = [await connect(served, WHOLE) for _ in range(10)]
    await served.engine.wait_for_requests(10)
    assert (await answer(await connect(served, WHOLE))).startswith(b"HTTP/1.1 503 ")
    for request in served.engine.submitted:
        request.deliver(b"x", "stop")
    for reader, writer in running:
        assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
