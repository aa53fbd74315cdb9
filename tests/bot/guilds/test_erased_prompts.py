"""What is deleted is erased from the engine's cache as well, and no deletion fails because that did not work."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from discord.ext import commands

from bot.cogs.guild_events import GuildEvents
from bot.engine_client import prompt_cache
from bot.engine_client.client import EngineClient
from bot.engine_client.prompt_cache import PromptCache
from bot.engine_client.pseudonyms import Pseudonyms
from bot.guilds.privacy import PrivacyService
from bot.settings import Settings
from models.database import Database
from models.queries.tenants.guilds import guild_joined
from models.types import DialogKey
from tests.bot.guilds.test_privacy import ANNA, BEN, NOW, leave_data
from tests.fakes.engine import FakeEngine

PSEUDONYMS = Pseudonyms(Settings(_env_file=None, discord_token="token"))


def salts(user: int, *guilds: int) -> list[str]:
    return sorted(PSEUDONYMS.cache_salt(DialogKey(guild, user)) for guild in guilds)


async def test_of_a_member_in_all_guilds_and_direct_messages(database: Database) -> None:
    for user, guild in ((ANNA, 100), (ANNA, 101), (BEN, 102)):
        await leave_data(database, user, guild)
    async with FakeEngine() as engine, EngineClient(engine.url) as client:
        service = PrivacyService(database, PromptCache(client, PSEUDONYMS))
        await service.delete(ANNA)
        assert sorted(engine.erased) == salts(ANNA, 0, 100, 101)
        engine.erased.clear()
        await service.delete(BEN, guild_id=102, actor_id=ANNA)
        await service.delete_guild(101)
        assert engine.erased == [*salts(BEN, 102), *salts(ANNA, 101)]


async def test_of_guilds_that_removed_the_bot_while_it_was_away(database: Database) -> None:
    for guild in (100, 101):
        await leave_data(database, ANNA, guild)
        async with database.write() as session:
            await guild_joined(session, guild_id=guild, now=NOW)
    async with FakeEngine() as engine, EngineClient(engine.url) as client:
        bot = cast(commands.Bot, SimpleNamespace(shard_id=None, shard_count=None, guilds=[SimpleNamespace(id=101)]))
        events = GuildEvents(bot, database, PrivacyService(database, PromptCache(client, PSEUDONYMS)))
        await events.on_ready()
        await events.on_ready()
        assert engine.erased == salts(ANNA, 100)


async def test_a_server_that_cannot_is_asked_once(database: Database) -> None:
    await leave_data(database, ANNA, 100)
    async with FakeEngine() as engine, EngineClient(engine.url) as client:
        engine.erases = False
        service = PrivacyService(database, PromptCache(client, PSEUDONYMS))
        assert any((await service.delete(ANNA, guild_id=100)).counts.values())
        await service.delete_guild(100)
        assert engine.calls.count("/cache/erase") == 1


async def test_a_deletion_does_not_need_the_engine(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await leave_data(database, ANNA, 100)
    async with FakeEngine() as engine:
        url = engine.url
    async with EngineClient(url) as client:
        service = PrivacyService(database, PromptCache(client, PSEUDONYMS))
        assert any((await service.delete(ANNA)).counts.values())
        await service.erase_prompts_of_guild(100)


async def test_an_engine_with_files_is_asked_until_it_answers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may still have what its memory has lost."""
    monkeypatch.setattr(prompt_cache, "_RETRY_SECONDS", 0.01)
    await leave_data(database, ANNA, 100)
    answers = [False, False, False, True]

    async def erase_cache(cache_salt: str) -> bool:
        asked.append(cache_salt)
        return answers[min(len(asked), len(answers)) - 1]

    for keeps_files, times in ((False, 1), (True, 4)):
        asked: list[str] = []
        async with EngineClient("http://127.0.0.1:9") as client:
            monkeypatch.setattr(client, "erase_cache", erase_cache)
            cache = PromptCache(client, PSEUDONYMS, keeps_files=keeps_files)
            await cache.erase([DialogKey(100, ANNA)])
            tasks = [each for each in asyncio.all_tasks() if each.get_name() == "erase the engine's files"]
            assert len(tasks) == keeps_files
            await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert asked == salts(ANNA, 100) * times
