"""Another reply to the last message: which one stands at each moment, and what happens when it does not come."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from bot.chat.chat_reply import ChatReply
from bot.chat.requests import ChatRequest
from bot.chat.service import ChatService
from bot.errors import Duplicate, EngineUnavailable, NothingToRegenerate, QuotaUsedUp
from models import queries
from models.database import Database
from models.types import DialogKey, GuildSettings, Place, TurnResult
from tests.bot.chat.chat_kit import ANN, BOB, MakeChat, contents, ignore, say
from tests.bot.stored_turns import statuses
from tests.fakes.engine import FakeEngine


async def regenerate(chat: ChatService, key: DialogKey = ANN, **values: object) -> ChatReply:
    return await chat.regenerate(ChatRequest(key, "", **values), ignore)


async def variants(database: Database, turn_id: int, key: DialogKey = ANN) -> list[tuple[str, bool]]:
    async with database.read() as session:
        kept = await queries.variants(session, key=key, turn_id=turn_id)
    return [(one.reply, one.active) for one in kept]


WAITING = Place(ANN.guild_id, 5, ANN.user_id, 900, application_id=1, reply_token="waiting")


async def tokens_of_waiting_messages(database: Database) -> list[str]:
    async with database.read() as session:
        return list(await session.scalars(text("SELECT reply_token FROM deliveries WHERE reply_token IS NOT NULL")))


async def test_the_new_reply_stands_and_the_old_one_is_kept(
    make_chat: MakeChat, engine: FakeEngine, database: Database
):
    chat = make_chat()
    await say(chat, "one")
    first = await say(chat, "two")
    engine.reply("better")
    again = await regenerate(chat)
    assert (again.text, again.turn_id, again.remembered, again.saved) == ("better", first.turn_id, True, True)
    assert contents(engine.requests[-1]) == ["You are a test.", "one", "You said: one", "two"]
    assert await variants(database, first.turn_id) == [("You said: two", False), ("better", True)]
    await say(chat, "three")
    assert contents(engine.requests[-1])[-2:] == ["better", "three"]
    assert await statuses(database) == ["done"] * 3
    async with database.read() as session:
        [used] = await queries.usage(session, key=ANN, since=datetime.now(UTC).date())
    assert used.turns == 3  # a reply of the same turn is no new one


async def test_the_old_reply_stands_until_then_and_when_none_comes(
    make_chat: MakeChat, engine: FakeEngine, database: Database
):
    chat = make_chat()
    first = await say(chat, "one")
    engine.hang("never")
    running = asyncio.create_task(regenerate(chat, place=WAITING))
    await asyncio.wait_for(engine.arrived(2), 10)
    assert [pair.reply for pair in await chat.turns.history(ANN, 5)] == ["You said: one"]
    assert await tokens_of_waiting_messages(database) == ["waiting"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    engine.release()
    engine.fail(500)
    with pytest.raises(EngineUnavailable):
        await regenerate(chat)
    engine.reply(" ")
    assert not (await regenerate(chat)).remembered
    assert [pair.reply for pair in await chat.turns.history(ANN, 5)] == ["You said: one"]
    assert await variants(database, first.turn_id) == []
    assert await tokens_of_waiting_messages(database) == []


async def test_a_reset_meanwhile_wins(make_chat: MakeChat, engine: FakeEngine, database: Database):
    chat = make_chat()
    first = await say(chat, "one")
    engine.hang("late")
    running = asyncio.create_task(regenerate(chat, place=WAITING))
    await asyncio.wait_for(engine.arrived(2), 10)
    await chat.dialogs.reset(ANN)
    engine.release()
    late = await running
    assert (late.text, late.saved, late.remembered) == ("late", True, False)
    assert await variants(database, first.turn_id) == []
    # A later start of the bot must not apologise for a message that was finished.
    assert await tokens_of_waiting_messages(database) == []


async def test_only_ones_own_and_only_in_the_same_dialog(make_chat: MakeChat, engine: FakeEngine):
    chat = make_chat()
    await say(chat, "one")
    for key in (BOB, DialogKey(ANN.guild_id, BOB.user_id), replace(ANN, channel_id=5)):
        with pytest.raises(NothingToRegenerate):
            await regenerate(chat, key)
    assert len(engine.requests) == 1


async def test_each_interaction_once_and_within_the_quota(make_chat: MakeChat, engine: FakeEngine, database: Database):
    chat = make_chat()
    await say(chat, "one")
    await regenerate(chat, interaction_id=7)
    with pytest.raises(Duplicate):
        await regenerate(chat, interaction_id=7)
    async with database.write() as session:
        await queries.set_guild_settings(
            session, key=ANN, settings=GuildSettings(daily_turns=1), actor_id=1, now=datetime.now(UTC)
        )
    with pytest.raises(QuotaUsedUp):
        await regenerate(chat)
    assert len(engine.requests) == 2


async def test_storing_twice_after_a_lost_answer_is_storing_once(make_chat: MakeChat, database: Database):
    first = await say(make_chat(), "one")
    result, now = TurnResult("better", 1, 1, "stop", 1, 1), datetime.now(UTC)
    for _ in range(2):
        async with database.write() as session:
            assert await queries.finish_regeneration(session, key=ANN, turn_id=first.turn_id, result=result, now=now)
    assert await variants(database, first.turn_id) == [("You said: one", False), ("better", True)]
