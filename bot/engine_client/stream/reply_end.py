"""When a stream is read no further: some servers never end the stream of a complete reply.

Knows events and time; does not know what an event says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bot.engine_client.stream.event_payload import Event
from bot.engine_client.stream.event_stream import EventStream
from bot.engine_client.stream.reply_reader import ReplyReader

_END_SECONDS = 5.0
"""How long a server may take to end a stream, with a word on usage, after it has said that the reply is complete."""


async def events_to_the_end(stream: EventStream, reader: ReplyReader) -> AsyncIterator[list[Event]]:
    """The events of a stream, which the caller passes to `reader` one list after the other."""
    arriving, clock = aiter(stream), asyncio.get_running_loop().time
    until, said_more = None, True
    with contextlib.suppress(TimeoutError):
        while True:
            if reader.finish_reason is not None and said_more:
                until = clock() + _END_SECONDS
            async with asyncio.timeout_at(until):
                events = await anext(arriving, None)
            if events is None:
                return
            yield events
            said_more = any(event is not None for event in events)
