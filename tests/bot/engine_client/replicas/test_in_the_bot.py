"""Several servers behind the chat service, the erasure of prompts, and `doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bot.chat.service import ChatService
from bot.engine_client.prompt_cache import PromptCache
from bot.engine_client.pseudonyms import Pseudonyms
from bot.services import external_engine
from bot.settings import Settings
from bot.terminal.doctor.engine import _external_engines
from models.database import Database
from models.types import DialogKey
from tests.bot.chat.chat_kit import say
from tests.fakes.engine import FakeEngine

GUILDS = [DialogKey(guild, 7) for guild in range(1, 17)]
"""Enough of them that each server has one. Its port decides which has which."""


@pytest.fixture
async def servers() -> AsyncIterator[list[FakeEngine]]:
    async with FakeEngine() as one, FakeEngine() as two:
        yield [one, two]


def settings_of(servers: list[FakeEngine], **values: object) -> Settings:
    urls = ",".join(server.url for server in servers)
    return Settings(_env_file=None, engine_url=urls, persona="You are a test.", **values)


async def test_one_url_is_one_client(servers: list[FakeEngine]) -> None:
    async with external_engine(settings_of(servers[:1])) as engine:
        assert type(engine).__name__ == "EngineClient"
        assert engine.lane("a") == engine.lane("b") == 0


async def test_guilds_have_their_servers_and_move_when_one_goes(database: Database, servers: list[FakeEngine]) -> None:
    settings = settings_of(servers)
    async with external_engine(settings) as engine:
        chat = ChatService(database=database, engine=engine, settings=settings)
        try:
            await asyncio.gather(*(say(chat, "hello", key) for key in GUILDS))
            await asyncio.gather(*(say(chat, "hello", key) for key in GUILDS))
            salts = [{request.body["cache_salt"] for request in server.requests} for server in servers]
            assert all(salts)
            assert not salts[0] & salts[1]
            await servers[0].stop()
            replies = await asyncio.gather(*(say(chat, "again", key) for key in GUILDS))
            assert {reply.text for reply in replies} == {"You said: again"}
            assert all(reply.pairs_in_prompt == 2 for reply in replies)
        finally:
            await chat.close(0)


async def test_a_message_waits_in_the_line_of_its_own_server(database: Database, servers: list[FakeEngine]) -> None:
    settings = settings_of(servers)
    async with external_engine(settings) as engine:
        chat = ChatService(database=database, engine=engine, settings=settings)
        names = Pseudonyms(settings, lambda: database.application_id)
        by_lane = {engine.lane(names.cache_salt(key)): key for key in GUILDS}
        asking = []
        try:
            for lane in (1, 2):
                servers[lane - 1].hang()
                asking.append(asyncio.create_task(say(chat, "hello", by_lane[lane])))
            for server in servers:
                await server.arrived(1)
            assert chat.num_waiting == 2
            for lane in (1, 2):
                (waiting,) = chat.waiting_of(by_lane[lane])
                assert waiting.status.place == 1, "the other one waits for another server"
        finally:
            for server in servers:
                server.release()
            await asyncio.gather(*asking)
            await chat.close(0)


async def test_a_deletion_reaches_all_servers(servers: list[FakeEngine]) -> None:
    settings = settings_of(servers)
    async with external_engine(settings) as engine:
        await PromptCache(engine, Pseudonyms(settings)).erase([GUILDS[0]])
    assert len(servers[0].erased) == 1
    assert servers[0].erased == servers[1].erased


async def test_the_doctor_tells_of_each(servers: list[FakeEngine]) -> None:
    one, two = (f"127.0.0.1:{server.port}" for server in servers)
    settings = settings_of(servers)
    secret = settings.engine_url.replace("http://127", "http://ann:secret@127", 1)
    settings = Settings(_env_file=None, engine_url=secret)
    servers[1].healthy = False
    assert [(each.status, each.found) for each in await _external_engines(settings)] == [
        ("ok", f"1 ({one}) serves fake-model, context 4,096 tokens"),
        ("note", f"2 ({two}) serves fake-model, context 4,096 tokens, and says that it is not ready yet"),
    ]
    servers[1].models = ["another"]
    found = await _external_engines(settings)
    assert [each.status for each in found] == ["ok", "note", "bad"]
    assert "different models" in found[-1].found
    await servers[0].stop()
    found = await _external_engines(settings)
    assert [each.status for each in found] == ["bad", "note"]
    assert f"GUILDLLAMA_ENGINE_URL=1 ({one}): ConnectError" in found[0].found
    assert f"2 ({two}) serves another" in found[1].found
    assert "secret" not in str(found)
