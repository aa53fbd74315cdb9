"""Server-sent events out of the bytes of a response: the JSON object of each, until the stream says that it is done.

The hot path of a busy bot, with one event for every few tokens of every reply: nothing is validated here that nobody
asks for. Knows the wire format, and not what the objects mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

DONE = b"[DONE]"
_LAST_BYTES = 0.5  # seconds for the response to end after DONE, so that its connection can be used again


async def objects(pieces: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """Raises ValueError for an event that is no JSON object. A last event without its end does not count."""
    data: list[bytes] = []
    rest = b""
    async for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].strip(b" "))
            elif not line and data:
                event, data = b"\n".join(data), []
                if event.startswith(DONE):
                    await _read_out(pieces)
                    return
                found = json.loads(event)
                if not isinstance(found, dict):
                    raise ValueError(f"an event that is no object: {event[:80]!r}")
                yield found


async def _read_out(pieces: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_BYTES):
            async for _ in pieces:
                pass
