"""Lists of models that say little, or the wrong thing, as real servers give them: see `contract`."""

from __future__ import annotations

import asyncio

import pytest

from bot.engine_client.client import EngineClient
from bot.engine_client.messages import Delta, Message
from bot.errors import EngineRefused, EngineUnavailable
from tests.fakes.engine import FakeEngine


async def said(client: EngineClient) -> str:
    hello = [Message(role="user", content="hello")]
    events = client.stream(hello, temperature=0, top_p=1, max_tokens=8, user="someone", cache_salt="salt")
    return "".join([event.text async for event in events if isinstance(event, Delta)])


async def test_a_list_that_fails_is_done_without_where_a_model_is_named() -> None:
    async with FakeEngine() as engine, EngineClient(engine.url, model="fake-model") as client:
        engine.list_fails = True
        assert await said(client) == "You said: hello"
        assert client.context_length is None
        engine.list_fails = False  # it is asked for again
        assert await client.model() == "fake-model"
        assert client.context_length == 4096


async def test_without_a_name_it_is_an_error() -> None:
    async with FakeEngine() as engine, EngineClient(engine.url) as client:
        engine.list_fails = True
        with pytest.raises(EngineUnavailable):
            await said(client)


async def test_a_server_that_lists_another_model_than_it_serves() -> None:
    """The name that it lists is refused, then it is asked for the configured one; also of many requests at once."""
    async with FakeEngine() as engine, EngineClient(engine.url, model="fake-model") as client:
        engine.list_of_others = ["someone/other"]
        assert await asyncio.gather(*(said(client) for _ in range(4))) == ["You said: hello"] * 4
        assert client.known_model == "fake-model"
        engine.calls.clear()
        await said(client)
        assert engine.calls == ["/v1/chat/completions"]


async def test_a_name_that_nobody_configured_is_not_tried() -> None:
    async with FakeEngine() as engine, EngineClient(engine.url) as client:
        engine.list_of_others = ["someone/other"]
        with pytest.raises(EngineRefused):
            await said(client)


async def test_the_context_of_a_slot() -> None:
    """llama.cpp's server states it beside the one that the model was trained with."""
    async with FakeEngine(max_model_len=None) as engine, EngineClient(engine.url) as client:
        engine.slot_context = 2048
        await client.model()
        assert client.context_length == 2048
