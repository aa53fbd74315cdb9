"""Several models behind the services: each guild's messages, notes and counts go to the one that it chose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.engine_client.messages import Message
from bot.engine_client.model_list import ModelList
from bot.engine_client.prompt_cache import PromptCache
from bot.engine_client.pseudonyms import Pseudonyms
from bot.errors import PersonaTooLong, PromptTooLong
from bot.guilds.personas import PersonaService
from bot.memory.job import MemoryJob
from bot.memory.quiet import QuietTime
from bot.memory.writer import MemoryWriter
from bot.settings import Settings
from bot.short_answers import ShortAnswers
from bot.terminal.doctor.engine import _listed_models
from models import queries
from models.database import Database
from models.queries.dialogs.variants import select_variant
from models.queries.inspection import turn_lines
from models.queries.tenants.member_settings import set_member_memory
from models.types import GuildSettings
from tests.bot.chat.chat_kit import ANN, BOB, MakeChat, contents, ignore, say
from tests.bot.chat.chat_kit import ChatRequest as Request
from tests.fakes.engine import FakeEngine

SETTINGS = Settings(_env_file=None, persona="You are a test.", max_chat_logs=100)


@dataclass
class Kit:
    """The default model, whose context is long, and "small"."""

    database: Database
    large: FakeEngine
    small: FakeEngine
    models: ModelList


@pytest.fixture
async def kit(database: Database, engine: FakeEngine, client: EngineClient) -> AsyncIterator[Kit]:
    async with FakeEngine(model="tiny", max_model_len=128) as small, EngineClient(small.url) as other:
        yield Kit(database, engine, small, ModelList(client, {"small": other}))


async def choose(database: Database, model: str | None, **settings: bool) -> None:
    async with database.write() as session:
        chosen = GuildSettings(model=model, **settings)
        await queries.set_guild_settings(session, key=ANN, settings=chosen, actor_id=None, now=datetime.now(UTC))


async def test_a_prompt_fits_into_the_context_of_its_model(kit: Kit) -> None:
    chat = ChatService(database=kit.database, engine=kit.models, settings=SETTINGS)
    try:
        for number in range(12):
            await say(chat, f"{number} one two three four")
        assert len(contents(kit.large.requests[-1])) == 1 + 11 * 2 + 1
        await say(chat, "and now", model="small")
        [request] = kit.small.requests
        assert len(contents(request)) < 12
        assert request.body["cache_salt"] == kit.large.requests[0].body["cache_salt"]
        await say(chat, "and again")
        assert len(contents(kit.large.requests[-1])) == 1 + 13 * 2 + 1
    finally:
        await chat.close(0)


async def test_a_message_waits_in_the_line_of_its_model(kit: Kit) -> None:
    chat = ChatService(database=kit.database, engine=kit.models, settings=SETTINGS)
    kit.large.hang()
    kit.small.hang()
    asking = [asyncio.create_task(say(chat, "hi", ANN)), asyncio.create_task(say(chat, "hi", BOB, model="small"))]
    try:
        await kit.large.arrived(1)
        await kit.small.arrived(1)
        assert [chat.waiting_of(key)[0].status.place for key in (ANN, BOB)] == [1, 1]
    finally:
        kit.large.release()
        kit.small.release()
        await asyncio.gather(*asking)
        await chat.close(0)


async def test_each_reply_says_which_model_wrote_it(kit: Kit) -> None:
    """Also of several replies to a message, and when another one of them is used."""
    chat = ChatService(database=kit.database, engine=kit.models, settings=SETTINGS)
    first = await say(chat, "hi")

    async def recorded() -> list[str | None]:
        async with kit.database.read() as session:
            return [line.model for line in await turn_lines(session, dialog_id=1)]

    try:
        assert await recorded() == ["fake-model"]
        await chat.regenerate(Request(ANN, "", turn_id=first.turn_id, model="small"), ignore)
        assert await recorded() == ["tiny"]
        async with kit.database.write() as session:
            assert await select_variant(session, key=ANN, turn_id=first.turn_id, position=1)
        assert await recorded() == ["fake-model"]
        await chat.continue_reply(Request(ANN, "", turn_id=first.turn_id, model="small"), ignore)
        assert await recorded() == ["tiny"]
    finally:
        await chat.close(0)


async def test_notes_are_taken_by_the_guilds_model(kit: Kit) -> None:
    writer = MemoryWriter(database=kit.database, engine=kit.models, settings=Settings(_env_file=None, max_chat_logs=1))
    now = datetime.now(UTC)
    await choose(kit.database, "small", memory=True)
    async with kit.database.write() as session:
        await set_member_memory(session, key=ANN, memory=True, now=now)
    chat = ChatService(database=kit.database, engine=kit.models, settings=SETTINGS)
    try:
        for text in ("I like tea", "I like cake", "I like nuts"):
            await say(chat, text)
    finally:
        await chat.close(0)
    kit.large.requests.clear()
    kit.small.max_model_len = kit.small.context = 4096
    await MemoryJob(database=kit.database, writer=writer, quiet=QuietTime()).run_once()
    assert kit.small.requests
    assert not kit.large.requests


async def test_a_context_that_is_too_short_for_notes_is_no_fault(kit: Kit) -> None:
    """A BotError, with which each caller reckons: the notes wait, and in a scene the next character speaks."""
    with pytest.raises(PromptTooLong):
        await ShortAnswers(kit.models.engine("small"), SETTINGS).ask(
            ANN, [Message(role="user", content="word " * 200)], max_tokens=8, response_format={"type": "json_object"}
        )


async def test_a_persona_is_measured_by_the_guilds_model(kit: Kit) -> None:
    personas = PersonaService(kit.database, kit.models, SETTINGS)
    text = "word " * 80
    saved = await personas.set(ANN, "guild", text)
    assert saved.size is not None
    assert saved.size.context == 4096
    await choose(kit.database, "small")
    with pytest.raises(PersonaTooLong):
        await personas.set(ANN, "guild", text)
    saved = await personas.set(BOB, "guild", text)  # another guild
    assert saved.size is not None
    assert saved.size.context == 4096


async def test_a_deletion_reaches_all_models(kit: Kit) -> None:
    await PromptCache(kit.models, Pseudonyms(SETTINGS)).erase([ANN])
    assert len(kit.small.erased) == 1
    assert kit.small.erased == kit.large.erased


async def test_a_model_that_goes_fails_only_its_guilds(kit: Kit, make_chat: MakeChat) -> None:
    chat = ChatService(database=kit.database, engine=kit.models, settings=SETTINGS)
    await kit.small.stop()
    try:
        failed, answered = await asyncio.gather(
            say(chat, "hi", ANN, model="small"), say(chat, "hi", BOB), return_exceptions=True
        )
        assert type(failed).__name__ == "EngineUnavailable"
        assert not isinstance(answered, BaseException)
        # A model that is not listed is the default one, and no error.
        assert (await say(chat, "hi", ANN, model="gone")).text == "You said: hi"
    finally:
        await chat.close(0)


async def test_the_doctor_asks_each_listed_model(kit: Kit) -> None:
    small = f"127.0.0.1:{kit.small.port}"
    large = f"127.0.0.1:{kit.large.port}"
    listed = f"a=http://ann:secret@{small};b=fake-model@http://{large};c=other@http://{large};d=http://{small},http://{large}"
    found = await _listed_models(Settings(_env_file=None, models=listed))
    assert [(each.status, each.found) for each in found] == [
        ("note", f"a ({small}) serves tiny, context 128 tokens: half of it or more is kept for the reply"),
        ("ok", f"b ({large}) serves fake-model, context 4,096 tokens"),
        ("bad", f"c ({large}) serves fake-model, context 4,096 tokens, and not other"),
        ("note", f"d 1 ({small}) serves tiny, context 128 tokens: half of it or more is kept for the reply"),
        ("ok", f"d 2 ({large}) serves fake-model, context 4,096 tokens"),
        ("bad", "the servers at GUILDLLAMA_MODELS serve different models or contexts"),
    ]
    await kit.small.stop()
    [gone, *_others] = await _listed_models(Settings(_env_file=None, models=listed))
    assert gone.status == "bad"
    assert f"GUILDLLAMA_MODELS=a ({small}): ConnectError" in gone.found
    assert "secret" not in str(gone)
