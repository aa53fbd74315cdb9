"""Clients that begin requests and do not finish them: they time out, and shut nobody out."""

import asyncio
import json
import time

import pytest

from engine.server.network import connections, reading
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


async def test_attack_a_client_that_stops_reading_its_stream_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READ_TIMEOUT", 0.3)
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    reader, writer = await connect(served, HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    await reader.readuntil(b"\r\n\r\n")
    request = await served.engine.next_request()
    deadline = time.monotonic() + 5
    while not request.cancelled.is_set():  # it never reads again
        request.deliver(b"x" * 2000)
        await asyncio.sleep(0.001)
        assert time.monotonic() < deadline
    writer.close()


@pytest.mark.parametrize(
    ("data", "status", "word"),
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 50_000 + b"\r\n", 431, b"16384 bytes"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, b"16384 bytes"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 40_000, 413, b"small chunks"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;x=" + b"y" * 40_000, 431, b"16384 bytes"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, b"HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 200 + b"\r\n\r\n", 400, b"HTTP/1.1"),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, b"HTTP/1.1"),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, b"HTTP/1.1"),
    ],
    ids=["lines", "target", "chunks", "extension", "host", "tls", "coding", "two_lengths"],
)
async def test_attack_what_is_expensive_or_invalid_on_the_wire_gets_an_error_body(
    served: Served, data: bytes, status: int, word: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    connection = await connect(served, data)
    head, _, body = (await answer(connection)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    error = json.loads(body)["error"]
    assert word in error["message"].encode()
    assert error["code"] == "invalid_http"
    assert not capfd.readouterr().err  # no line for each bad request


async def test_attack_a_bad_chunk_after_the_answer_ends_the_connection_quietly(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    foreign = HEAD.replace(b"localhost", b"evil.example") + b"Transfer-Encoding: chunked\r\n\r\n"
    reader, writer = await connect(served, foreign)
    assert b" 403 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"-5\r\nhello\r\n")
    assert b"host_not_allowed" in await answer((reader, writer))
    assert not capfd.readouterr().err


async def test_a_body_in_many_chunks_of_a_usual_size_is_read(served: Served) -> None:
    served.engine.replies = [b"ok"]
    body = BODY.replace(b"Hello", b"Hello" * 2)
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    large = b'"' + b"x" * 800 + b'"'
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(large) + 1, large + b",") for _ in range(100))
    whole = b'3\r\n{"' + b'a\r\n2\r\n":\r\n1\r\n[\r\n' + chunks + b"2\r\n1]\r\n1\r\n}\r\n0\r\n\r\n"
    for data, status in ((chunked, b"200"), (whole, b"400")):
        head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        text = await answer(await connect(served, head + data))
        assert text.startswith(b"HTTP/1.1 " + status)
    assert b"'messages' is missing" in text


@pytest.mark.usefixtures("impatient")
async def test_attack_a_large_body_that_stalls_times_out_however_much_came(
    roomy: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "STALL_TIMEOUT", 0.3)
    data = HEAD + b"Content-Length: 8000000\r\n\r\n" + b" " * 7_000_000
    connection = await connect(roomy, data)
    started = time.monotonic()
    assert (await answer(connection)).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 3


async def test_attack_large_bodies_that_were_only_begun_leave_room_for_others(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest body of this server has 100,000 bytes; eight of them fit into the memory for bodies."""
    data = HEAD + b"Content-Length: 99000\r\n\r\n" + b" " * 98_000
    half = [await connect(served, data) for _ in range(30)]
    await asyncio.sleep(0.3)
    served.engine.replies = [b"ok"]
    body = BODY + b" " * 95_000
    text = await answer(
        await connect(served, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    )
    assert text.startswith(b"HTTP/1.1 200 ")
    ended = [await answer(connection) for connection in half[:20]]
    assert {text[:13] for text in ended} == {b"HTTP/1.1 408 "}
    for _, writer in half:
        writer.close()
    await asyncio.sleep(0.1)
    for _ in range(12):  # the memory counts as free again
        served.engine.replies = [b"ok"]
        text = await answer(
            await connect(served, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        )
        assert text.startswith(b"HTTP/1.1 200 ")
