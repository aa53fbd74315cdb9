"""The events of one streamed answer, each parsed from JSON; None for a sign of life without data (a comment, a ping).
Those that came together are passed on together: to pass on each would cost more than to parse it.

openai's own decoder has no bound, and hides comments and whether `[DONE]` came. An answer may also be one JSON object,
or one on each line: the first bytes tell, since servers name the wrong content type. Knows lines and bounds; what an
event contains is up to `event_payload`.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai

from bot.engine_client.http.aiohttp_transport import BODY_ENDED
from bot.engine_client.stream.event_payload import Event, error_event, is_done, is_end, is_keepalive, parse_events
from bot.errors import EngineUnreadable

EVENT_BYTES = 1 << 20
STREAM_BYTES = 64 << 20
_LINES_AT_A_TIME = 64
_DRAIN_SECONDS = 0.1
_DRAIN_PIECES = 8
_PACE_SECONDS = 0.1
_PACE_SHARE = 0.5
"""Of the time so far: the first words are hardly delayed."""
_PACED_BYTES = 16 << 10
"""More than a model writes in that time: such a stream is read without pauses."""


class EventStream(openai.AsyncStream[object]):
    """An async iterator over events, several at a time.

    Raises EngineUnreadable, openai.APIError for an error event, or httpx2's.
    """

    done = False
    """Whether the server said that the stream is complete."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._pieces = self.response.aiter_bytes()
        self._data: list[bytes] = []
        self._size = 0
        self._name = b""
        self._split_failed = False
        self._is_sse = False
        self._is_marked = False  # with `[DONE]`
        self._events = self._read()

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        return self._events

    async def _read(self) -> AsyncIterator[list[Event]]:
        if "html" in self.response.headers.get("Content-Type", "").lower():
            raise EngineUnreadable("a web page instead of a stream")
        pieces = self._lines()
        async for lines in pieces:
            events: list[Event] = []
            try:
                for position, line in enumerate(lines):
                    if not self._is_sse and line.lstrip()[:1] in {b"{", b"[", b"<"} and not is_done(line):
                        async for event in self._read_json(line, _one_by_one(lines[position + 1 :], pieces)):
                            yield [event]
                        return
                    self._take(line, events)
                    if self._is_marked:
                        break
            except (EngineUnreadable, openai.APIError):
                if events:
                    yield events  # what came before the error
                raise
            if events:
                yield events
            if self._is_marked:
                await self._end()
                return
        with contextlib.suppress(EngineUnreadable):  # the last event was cut off: then no finish_reason came either
            yield self._dispatch()

    def _take(self, line: bytes, events: list[Event]) -> None:
        """Append the events that this line completes."""
        if not line:
            events += self._dispatch()
            self._name = b""
            return
        if line.startswith(b"data:"):
            self._is_sse = True
            value = line[5:].removeprefix(b" ")
            if self._is_next(value):
                events += self._dispatch()
            if is_done(value):  # some servers close without the empty line
                self._is_marked = True
            else:
                self._add(value)
            return
        if is_done(line):
            self._is_marked = True
            return
        if line.lstrip()[:1] in {b"{", b"[", b"<"}:
            with contextlib.suppress(EngineUnreadable):  # an error that the server wrote without `data:`
                events += parse_events(line, self.response.request)
        name, _, value = line.partition(b":")
        if name == b"error":  # llama.cpp's server, some versions
            raise error_event(self.response.request, value.decode(errors="replace"))
        if name == b"event":
            self._name = value.strip().lower()
        events.append(None)

    def _add(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value)
        if self._size > EVENT_BYTES:
            raise EngineUnreadable(f"an event of more than {EVENT_BYTES:,} bytes")

    def _is_next(self, value: bytes) -> bool:
        """Whether this line of data begins another event although no empty line came: some servers send none."""
        if not self._data or self._split_failed or not (is_done(value) or value.lstrip()[:1] == b"{"):
            return False
        try:
            parse_events(b"\n".join(self._data), self.response.request)
        except EngineUnreadable:
            self._split_failed = True  # once an event: a text of many lines is not parsed over and over
            return False
        except openai.APIError:
            pass
        return True

    def _dispatch(self) -> list[Event]:
        """What the lines of data since the last empty line say."""
        payload, name = b"\n".join(self._data), self._name
        if not self._data:
            return [None]
        self._data.clear()
        self._size, self._split_failed = 0, False
        if name in {b"error", b"exception"}:
            raise error_event(self.response.request, payload.decode(errors="replace"))
        self.done = self.done or is_end(name)
        if is_keepalive(name, payload):
            return [None]
        return parse_events(payload, self.response.request)

    async def _read_json(self, first: bytes, lines: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        """An answer that is no stream of events: one JSON object, or one on each line."""
        if first.lstrip()[:1] == b"<":
            raise EngineUnreadable("a web page instead of a stream")
        try:
            events = parse_events(first, self.response.request)
        except EngineUnreadable:
            whole = bytearray(first)
            async for line in lines:
                whole += b"\n" + line
                if len(whole) > EVENT_BYTES:
                    raise EngineUnreadable(f"an answer of more than {EVENT_BYTES:,} bytes") from None
            for event in parse_events(bytes(whole), self.response.request):
                yield event
            self.done = True
            return
        for event in events:
            yield event
        is_one = True
        async for line in lines:
            if line.strip():
                is_one = False
                for event in parse_events(line, self.response.request):
                    yield event
        self.done = is_one

    async def _end(self) -> None:
        """Read what follows `[DONE]`, for a moment: a connection can be used again only when its answer has ended."""
        self.done = True
        with contextlib.suppress(httpx2.HTTPError, httpx2.StreamError, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                for _ in range(_DRAIN_PIECES):
                    if await anext(self._pieces, None) is None:
                        break

    async def _lines(self) -> AsyncIterator[list[bytes]]:
        """Lines that end with LF, CR or CRLF, cut anywhere; the last one also if it does not end."""
        rest, total, skip_lf = bytearray(), 0, False
        async for piece in _paced(self._pieces, self.response.extensions.get(BODY_ENDED)):
            total += len(piece)
            if total > STREAM_BYTES:
                raise EngineUnreadable(f"a stream of more than {STREAM_BYTES:,} bytes")
            if skip_lf and piece:
                piece, skip_lf = piece.removeprefix(b"\n"), False
            skip_lf = skip_lf or piece.endswith(b"\r")
            rest += piece
            if b"\n" not in piece and b"\r" not in piece:
                if len(rest) > EVENT_BYTES:
                    raise EngineUnreadable(f"a line of more than {EVENT_BYTES:,} bytes")
                continue
            lines = bytes(rest).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            rest = bytearray(lines.pop())
            lines = [line.removeprefix(codecs.BOM_UTF8) for line in lines]
            yield lines[:_LINES_AT_A_TIME]
            for start in range(_LINES_AT_A_TIME, len(lines), _LINES_AT_A_TIME):
                await asyncio.sleep(0)  # one hundred thousand small events do not keep the others waiting
                yield lines[start : start + _LINES_AT_A_TIME]
        if rest:
            yield [bytes(rest).removeprefix(codecs.BOM_UTF8)]


async def _one_by_one(lines: list[bytes], more: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line
    async for lines in more:
        for line in lines:
            yield line


async def _paced(pieces: AsyncIterator[bytes], ended: asyncio.Future[None] | None) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces: a read costs more CPU than the token that it brings.

    After each read there is a pause, longer and longer up to a tenth of a second. `ended`: done once all has arrived,
    which ends a pause, so that nobody waits longer for a complete reply.
    """
    ended = ended or asyncio.get_running_loop().create_future()
    began_at = time.monotonic()
    async for piece in pieces:
        yield piece
        if len(piece) < _PACED_BYTES and not ended.done():
            await asyncio.wait([ended], timeout=min(_PACE_SECONDS, _PACE_SHARE * (time.monotonic() - began_at)))
