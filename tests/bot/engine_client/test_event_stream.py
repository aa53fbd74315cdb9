"""The events of a stream: the same wherever its bytes are cut, and whatever ends its lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import openai
import pytest

from bot.engine_client.stream import event_stream
from bot.engine_client.stream.event_payload import Event
from bot.engine_client.stream.event_stream import EventStream

CLIENT = openai.AsyncOpenAI(
    base_url="http://engine.invalid", api_key="none", http_client=httpx2.AsyncClient(verify=False)
)
TEXTS = ("llama 🦙", "two", "three")


class Pieces(httpx2.AsyncByteStream):
    """A body that is read in these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        pass


async def read(pieces: list[bytes]) -> tuple[list[Event], bool]:
    """The events with data, and whether the stream said that it is complete."""
    response = httpx2.Response(200, stream=Pieces(pieces), request=httpx2.Request("POST", "http://engine.invalid"))
    stream = EventStream(cast_to=object, response=response, client=CLIENT)
    found = [event async for events in stream for event in events if event is not None]
    return found, stream.done


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("between", ["", "newline", "\n", "\r\n"])
async def test_bytes_cut_anywhere(newline: str, between: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`between`: the empty line between events, which may end in another way than the others; "": there is none."""
    monkeypatch.setattr(event_stream, "_PACE_SECONDS", 0.0)
    events: list[Event] = [{"text": text} for text in TEXTS]
    lines = ["event: message", *(f"data: {json.dumps(event, ensure_ascii=False)}" for event in events), "data: [DONE]"]
    body = "".join(line + newline + (newline if between == "newline" else between) for line in lines).encode()
    assert await read([body]) == (events, True)
    for cut in range(1, len(body)):
        assert await read([body[:cut], body[cut:]]) == (events, True)
    assert await read([body[at : at + 1] for at in range(len(body))]) == (events, True)


async def test_an_empty_line_after_a_line_that_ends_with_cr_lf(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the event, also where CR, LF and LF are read one by one: the event's name holds for this one alone."""
    monkeypatch.setattr(event_stream, "_PACE_SECONDS", 0.0)
    body = b'event: ping\r\ndata: {"a": 1}\r\n\ndata: {"b": 2}\r\n\ndata: [DONE]\r\n\n'
    assert await read([body]) == await read([bytes([byte]) for byte in body]) == ([{"b": 2}], True)
