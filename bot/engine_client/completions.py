"""Starts streamed replies at /chat/completions, without the fields that this server turned down.

Knows the request and its fields; raises the errors of openai as they are, which `bot.engine_client.client` translates.
Reads no more of a reply than its first events, which may be a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import openai
import structlog

from bot.engine_client.errors import refusal_of
from bot.engine_client.http.transport import CONNECT_SECONDS, Transport
from bot.engine_client.images.refusal import refuses_images
from bot.engine_client.messages import Message
from bot.engine_client.refusals.optional_fields import refused_field
from bot.engine_client.refusals.overflow import overflow
from bot.engine_client.served_model import ServedModel
from bot.engine_client.stream.event_payload import Event
from bot.engine_client.stream.event_stream import EventStream
from bot.telemetry.tracing import trace_headers

log = structlog.get_logger(__name__)

_MAY_NAME_A_FIELD = {400, 422}
_MAY_NAME_A_MODEL = {400, 404}


class Completions:
    """The chat completions of one server, and which fields it takes."""

    def __init__(self, transport: Transport, served: ServedModel) -> None:
        self._transport = transport
        self._served = served
        self._rejected_fields: set[str] = set()

    async def start(
        self, messages: Sequence[Message], fields: dict[str, Any], on_activity: Callable[[], None], *, has_images: bool
    ) -> tuple[EventStream, list[Event]]:
        """Start the request without the fields that this server rejects: the stream and its first events, if any.

        A rejected request has generated nothing, whether the refusal is the answer or the first event of a stream.
        """
        model = await self._served.name()
        fields = {**fields, **self._served.template_fields}
        rejected = set(self._rejected_fields)
        while True:
            offered = dict(fields)
            if "max_tokens" in rejected:
                offered["max_completion_tokens"] = fields["max_tokens"]
            extra = {name: value for name, value in offered.items() if name not in rejected}
            try:
                # `chat.completions.create` would validate each message and build a model of each chunk: twice the CPU.
                stream = await self._transport.openai.post(
                    "/chat/completions",
                    body={"model": model, "messages": list(messages), "stream": True, **extra},
                    cast_to=object,
                    stream=True,
                    stream_cls=EventStream,
                    # No timeout between two chunks: the caller has its own.
                    options={
                        "timeout": httpx2.Timeout(None, connect=CONNECT_SECONDS),
                        "headers": trace_headers(),
                    },
                )
                first = await _first_events(stream, on_activity)
            except openai.APIConnectionError:
                raise
            except openai.APIError as error:
                status = error.status_code if isinstance(error, openai.APIStatusError) else 400
                refusal = refusal_of(error)
                if status in _MAY_NAME_A_MODEL and (wanted := self._served.insist(model, refusal.text)) is not None:
                    model = wanted
                    continue
                if status not in _MAY_NAME_A_FIELD:
                    raise
                is_the_prompt = overflow(refusal) is not None or (has_images and refuses_images(refusal))
                field = None if is_the_prompt else refused_field(refusal, set(extra))
                if field is None:
                    raise
                rejected.add(field)
            else:
                self._remember(rejected)
                return stream, first

    def _remember(self, rejected: set[str]) -> None:
        """Leave these fields out from now on. Only said of a request that was then accepted: they were the reason."""
        for field in sorted(rejected - self._rejected_fields):
            fields = self._transport.log_fields
            log.info("the server turned down a field; leaving it out from now on", field=field, **fields)
        self._rejected_fields |= rejected
        if rejected & self._served.template_fields.keys():
            self._served.template_fields = {}


async def _first_events(stream: EventStream, on_activity: Callable[[], None]) -> list[Event]:
    """The first event with data and those that came with it; none if the stream ends before.

    Closes the stream on any exception.
    """
    try:
        async for events in stream:
            on_activity()
            if any(event is not None for event in events):
                return events
    except BaseException:
        await stream.close()
        raise
    return []
