"""Server-sent events however they are cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.engine_client.sse import objects

STREAM = (
    ': a comment\r\ndata: {"text": "a"}\r\n\r\nevent: message\ndata:{"text":\ndata: "b ü"}\n\n\n'
    'id: 3\ndata: {"text": "c"}\n\ndata: [DONE]\n\ndata: {"text": "too late"}\n\n'
).encode()


async def cut(stream: bytes, places: list[int]) -> AsyncIterator[bytes]:
    edges = [0, *sorted(places), len(stream)]
    for start, end in itertools.pairwise(edges):
        yield stream[start:end]


async def read(pieces: AsyncIterator[bytes]) -> list[object]:
    return [found["text"] async for found in objects(pieces)]


@given(st.lists(st.integers(0, len(STREAM))))
def test_the_same_events_wherever_the_network_cuts(places: list[int]) -> None:
    assert asyncio.run(read(cut(STREAM, places))) == ["a", "b ü", "c"]


async def test_a_stream_that_breaks_off() -> None:
    assert await read(cut(b'data: {"text": "a"}\n\ndata: {"text": "b"', [])) == ["a"]


@pytest.mark.parametrize("event", ["[1]", "null", "{", "hello"])
async def test_no_object(event: str) -> None:
    with pytest.raises(ValueError):
        await read(cut(f"data: {event}\n\n".encode(), []))


async def test_a_server_that_does_not_end_after_done() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"data: [DONE]\n\n"
        await asyncio.sleep(60)

    async with asyncio.timeout(5):
        assert await read(endless()) == []
