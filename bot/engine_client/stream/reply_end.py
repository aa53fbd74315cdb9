"""Decides when a stream is read no further, since some servers never end the stream of a complete reply.

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
"""Seconds that a server may take for each further event, as of usage, or to end the stream, after a complete reply."""


async def events_to_the_end(stream: EventStream, reader: ReplyReader) -> AsyncIterator[list[Event]]:
    """Yield the events of a stream; the caller passes each list to `reader` before it asks for the next one.

    Once the reply is complete, ends after `_END_SECONDS` without an event, and raises nothing then. A sign of life
    (None) does not count as an event. Errors of `stream` are passed on.
    """
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
