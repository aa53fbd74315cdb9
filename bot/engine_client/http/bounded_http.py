"""An HTTP client that trusts no server: it bounds what is read and unpacked.

Knows HTTP only. The bounds count bytes after unpacking, so that a small body cannot become a large one.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2

ERROR_BYTES = 64 << 10
ANSWER_BYTES = 16 << 20
"""Of an answer that is no stream of events: a long list of models, or of tokens."""
_PIECE_BYTES = 64 << 10


class BoundedClient(httpx2.AsyncClient):
    """As httpx2.AsyncClient. An error's body is cut; another answer that is too large raises DecodingError."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **arguments: Any) -> httpx2.Response:
        """Send a request for a body that is not packed."""
        request.headers["Accept-Encoding"] = "identity"
        response = await super().send(request, stream=True, **arguments)
        bounded = httpx2.Response(
            response.status_code,
            headers=_headers(response),
            stream=_BoundedStream(response),
            request=request,
            extensions=response.extensions,
        )
        if not stream:
            try:
                await bounded.aread()
            finally:
                await bounded.aclose()
        return bounded


_BODY_HEADERS = {b"content-encoding", b"content-length", b"transfer-encoding"}


def _headers(response: httpx2.Response) -> list[tuple[bytes, bytes]]:
    """The headers that hold of the unpacked body. Its text is UTF-8: a charset may name a decoder that unpacks too."""
    kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _BODY_HEADERS]
    return [(name, value.split(b";")[0] if name.lower() == b"content-type" else value) for name, value in kept]


class _BoundedStream(httpx2.AsyncByteStream):
    """The unpacked body of a response, within its bound."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        response, total = self._response, 0
        is_error = response.status_code >= 400
        limit: float = ERROR_BYTES if is_error else ANSWER_BYTES
        if not is_error and "event-stream" in response.headers.get("Content-Type", ""):
            limit = float("inf")  # its reader has bounds of its own
        try:
            async for piece in _unpacked(response):
                total += len(piece)
                if total <= limit:
                    yield piece
                    continue
                if not is_error:
                    raise httpx2.DecodingError(f"an answer of more than {limit:,} bytes", request=response.request)
                yield piece[: len(piece) - (total - int(limit))]
                return
        except httpx2.DecodingError:
            if not is_error:
                raise
            # The status says enough; the words are lost.

    async def aclose(self) -> None:
        await self._response.aclose()


async def _unpacked(response: httpx2.Response) -> AsyncIterator[bytes]:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in {"", "identity"}:
        async for piece in response.aiter_raw():
            yield piece
        return
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise httpx2.DecodingError(f"an answer packed as {encoding[:20]!r}, unasked", request=response.request)
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, told by its first bytes
    async for packed in response.aiter_raw():
        try:
            while packed:
                piece = unpacker.decompress(packed, _PIECE_BYTES)
                packed = unpacker.unconsumed_tail
                if piece:
                    yield piece
                await asyncio.sleep(0)  # one packed piece may be a thousand unpacked ones
        except zlib.error as error:
            raise httpx2.DecodingError(
                f"an answer that cannot be unpacked: {error}", request=response.request
            ) from None
