"""The events of one streamed answer, each parsed from JSON; None for a sign of life without data (a comment, a ping).

openai's own decoder has no bound, and hides comments and whether `[DONE]` came. Knows server-sent events and nothing of
what they contain.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
import openai

from bot.errors import EngineUnreadable

EVENT_BYTES = 1 << 20
STREAM_BYTES = 64 << 20
_EVENTS_AT_A_TIME = 64
_DRAIN_SECONDS = 0.1
_DRAIN_PIECES = 8
_DONE = "[DONE]"
Event = dict[str, Any] | None


class EventStream(openai.AsyncStream[object]):
    """An async iterator over events. Raises EngineUnreadable, openai.APIError for an error event, or httpx2's."""

    done = False
    """Whether the server said that the stream is complete."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._pieces = self.response.aiter_bytes()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events()

    async def _events(self) -> AsyncIterator[Event]:
        content_type = self.response.headers.get("Content-Type", "")
        if content_type.partition(";")[0].strip().endswith("json"):  # a server that does not stream
            yield self._parsed(b"".join([piece async for piece in self._pieces]))
            self.done = True
            return
        if "html" in content_type.lower():
            raise EngineUnreadable("a web page instead of a stream")
        data: list[bytes] = []
        is_error = False
        size = count = 0
        async for line in self._lines():
            count += 1
            if count % _EVENTS_AT_A_TIME == 0:
                await asyncio.sleep(0)  # one hundred thousand small events do not keep the others waiting
            if not line:
                if data:
                    payload = b"\n".join(data)
                    data.clear()
                    size = 0
                    if payload.strip().startswith(_DONE.encode()):
                        await self._end()
                        return
                    if is_error:
                        raise self._error(payload.decode(errors="replace"))
                    if payload.strip():
                        yield self._parsed(payload)
                is_error = False
                continue
            name, _, value = line.partition(b":")
            if name == b"error":  # llama.cpp's server, some versions
                raise self._error(value.decode(errors="replace"))
            if name != b"data":
                is_error = is_error or (name == b"event" and value.strip() == b"error")
                yield None
                continue
            data.append(value.removeprefix(b" "))
            size += len(value)
            if size > EVENT_BYTES:
                raise EngineUnreadable(f"an event of more than {EVENT_BYTES:,} bytes")
            if value.strip() == _DONE.encode():  # some servers close without the empty line
                await self._end()
                return

    async def _end(self) -> None:
        """Read what follows `[DONE]`, for a moment: a connection can be used again only when its answer has ended."""
        self.done = True
        with contextlib.suppress(TimeoutError, httpx2.HTTPError, httpx2.StreamError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                for _ in range(_DRAIN_PIECES):
                    if await anext(self._pieces, None) is None:
                        break

    async def _lines(self) -> AsyncIterator[bytes]:
        """Lines that end with LF, CR or CRLF, cut anywhere."""
        rest, total, skip_lf = bytearray(), 0, False
        async for piece in self._pieces:
            if not total:
                piece = piece.removeprefix(codecs.BOM_UTF8)
            total += len(piece)
            if total > STREAM_BYTES:
                raise EngineUnreadable(f"a stream of more than {STREAM_BYTES:,} bytes")
            if skip_lf and piece.startswith(b"\n"):
                piece = piece[1:]
            skip_lf = piece.endswith(b"\r") if piece else skip_lf
            rest += piece
            if b"\n" not in piece and b"\r" not in piece:
                if len(rest) > EVENT_BYTES:
                    raise EngineUnreadable(f"a line of more than {EVENT_BYTES:,} bytes")
                continue
            lines = bytes(rest).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            rest = bytearray(lines.pop())
            for line in lines:
                yield line

    def _error(self, body: object) -> openai.APIError:
        return openai.APIError("an error event", self.response.request, body=body)

    def _parsed(self, payload: bytes) -> dict[str, Any]:
        try:
            event = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise EngineUnreadable(f"an event that is no JSON ({type(error).__name__})") from None
        if not isinstance(event, dict):
            raise EngineUnreadable(f"an event that is no JSON object but {type(event).__name__}")
        if event.get("error") or "error" in [event.get("object"), event.get("type")]:
            raise self._error(event.get("error") or event)
        return cast(dict[str, Any], event)
