"""Reads the bodies of requests: bounded in size, in the time that a client may take, and in their sum.

Knows bytes only; request_body.py says what is in them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from engine.server.protocol.errors import RequestError, rate_limited

# A body ends with 408 if nothing of it comes for STALL_TIMEOUT seconds, and after BODY_GRACE seconds and one more
# second for each MIN_BYTES_PER_SECOND of it.
STALL_TIMEOUT = 15.0
BODY_GRACE = 15.0
MIN_BYTES_PER_SECOND = 1 << 16
# Bodies of more than SMALL_BODY bytes share the memory of LARGEST_AT_ONCE bodies of the largest size. When it is used
# up, the body that has been arriving longest is ended.
SMALL_BODY = 1 << 16
LARGEST_AT_ONCE = 8


class _Incoming:
    """A body that is being read."""

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self.deadline = deadline
        self.started = asyncio.get_running_loop().time()
        self.size = 0
        self.ended = False

    def expect_more(self) -> None:
        """Wait for the next piece, not for ever."""
        if not self.ended:
            stall = asyncio.get_running_loop().time() + STALL_TIMEOUT
            last = self.started + BODY_GRACE + self.size / MIN_BYTES_PER_SECOND
            self.deadline.reschedule(min(stall, last))

    def end(self) -> None:
        """Wait no longer."""
        self.ended = True
        self.deadline.reschedule(self.started)


class BodyReader:
    """Reads the bodies of one server. Belongs to one event loop."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of one body."""
        self._limit = limit
        self._num_bytes = 0  # of the large bodies that are being read or used
        self._large: dict[_Incoming, None] = {}  # those that are being read, in the order in which they came

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body; its memory counts until the end of the block.

        Raises RequestError: 413 before more than the limit is in memory, 408 if it comes too slowly, 429 if too many
        large ones are there already.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limit:
            raise self._too_large()
        incoming: _Incoming | None = None
        try:
            try:
                async with asyncio.timeout(None) as deadline:
                    incoming = _Incoming(deadline)
                    body = await self._read(request, incoming)
            except TimeoutError:
                message = "The body did not come in time."
                raise RequestError(message, code="request_timeout", status=408, close=True) from None
            finally:
                if incoming is not None:
                    self._large.pop(incoming, None)
            yield body
        finally:
            if incoming is not None and incoming.size > SMALL_BODY:
                self._num_bytes -= incoming.size

    async def _read(self, request: Request, incoming: _Incoming) -> bytes:
        body = bytearray()
        incoming.expect_more()
        async for piece in request.stream():
            if len(body) + len(piece) > self._limit:
                raise self._too_large()
            body += piece
            self._grow(incoming, len(body))
            incoming.expect_more()
        return bytes(body)

    def _grow(self, incoming: _Incoming, size: int) -> None:
        """Count a body that has grown to `size`, and make room for it."""
        if size > SMALL_BODY:
            self._num_bytes += size - (incoming.size if incoming.size > SMALL_BODY else 0)
            self._large[incoming] = None
        incoming.size = size
        if size > SMALL_BODY and self._num_bytes > LARGEST_AT_ONCE * self._limit:
            oldest = next(iter(self._large))
            if oldest is incoming:
                raise rate_limited("Too many large requests at once.", 1)
            if not oldest.ended:
                oldest.end()

    def _too_large(self) -> RequestError:
        return RequestError(f"The body may have at most {self._limit} bytes.", code="body_too_large", status=413)
