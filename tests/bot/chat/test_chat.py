"""The chat service over real sockets and real databases: what is stored, what is sent, and in which order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from bot.chat.chat_reply import ChatReply
from bot.chat.requests import ChatRequest
from bot.engine_client.client import EngineClient
from bot.errors import (
    Busy,
    Duplicate,
    EmptyMessage,
    EngineUnavailable,
    MessageTooLong,
    NulCharacters,
)
from bot.guilds.personas import PersonaService
from bot.settings import Settings
from models.database import Database
from models.queries.privacy.opt_outs import opt_out
from models.types import DialogKey
from tests.bot.chat.chat_kit import ANN, BOB, MakeChat, contents, say
from tests.bot.stored_turns import statuses, turns
from tests.fakes.engine import FakeEngine, Script, words


class TestOneTurn:
    async def test_a_reply_streams_and_is_stored(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        engine.reply("Hel", "lo ", "Ann")
        chat = make_chat()
        pieces: list[str] = []

        async def on_delta(piece: str) -> None:
            pieces.append(piece)

        reply = await chat.chat(ChatRequest(ANN, "  Hi there\ud800 "), on_delta)

        assert "".join(pieces) == "Hello Ann"
        assert (reply.text, reply.saved, reply.remembered) == ("Hello Ann", True, True)
        assert reply.finish_reason == "stop"
        assert reply.completion_tokens == 3
        assert reply.prompt_tokens == words(engine.requests[0].messages)
        assert contents(engine.requests[0]) == ["You are a test.", "Hi there"]
        [pair] = await chat.turns.history(ANN, 10)
        assert (pair.turn_id, pair.user, pair.reply) == (reply.turn_id, "Hi there", "Hello Ann")

    async def test_twelve_exchanges_leave_ten_pairs_in_the_prompt_and_twelve_in_the_database(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database, client: EngineClient
    ):
        chat = make_chat(max_chat_logs=10)
        personas = PersonaService(database, client, Settings(_env_file=None))
        await personas.set(ANN, "guild", "You are a pirate.")
        for number in range(12):
            await say(chat, f"question {number}")
        reply = await say(chat, "the last one")
        expected = ["You are a pirate."]
        for number in range(2, 12):
            expected += [f"question {number}", f"You said: question {number}"]
        assert contents(engine.requests[-1]) == [*expected, "the last one"]
        assert reply.pairs_in_prompt == 10
        assert await statuses(database) == ["done"] * 13

    async def test_no_history_when_none_is_wanted(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat(max_chat_logs=0)
        await say(chat, "one")
        await say(chat, "two")
        assert contents(engine.requests[-1]) == ["You are a test.", "two"]

    async def test_a_step_keeps_the_beginning_of_the_prompt_for_several_turns(
        self, make_chat: MakeChat, engine: FakeEngine
    ):
        chat = make_chat(max_chat_logs=10, trim_step=5)
        for number in range(24):
            await say(chat, f"question {number}")
        kept = [(len(request.messages) - 2) // 2 for request in engine.requests]
        assert kept == [*range(11), *range(6, 11), *range(6, 11), 6, 7, 8]
        firsts = [contents(request)[1] for request in engine.requests[11:16]]
        assert len(set(firsts)) == 1

    async def test_extra_fields_are_opaque_and_stable(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat()
        for key in (ANN, DialogKey(1, 11), BOB, ANN, DialogKey(0, 10), DialogKey(0, 11)):
            await say(chat, "hello", key)
        users = [request.body["user"] for request in engine.requests]
        salts = [request.body["cache_salt"] for request in engine.requests]
        assert users[0] == users[3]
        assert len(set(users)) == 5
        assert salts[0] == salts[1] == salts[3]
        assert len(set(salts)) == 4  # guild 1, guild 2, and each person's direct messages
        assert not any(user == "10" or "1:10" in user for user in users)

    async def test_an_empty_reply_is_no_half_pair(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        engine.reply(" ", "\x00\n")
        chat = make_chat()
        reply = await say(chat, "say nothing")
        assert (reply.saved, reply.remembered) == (True, False)
        assert reply.text.strip() == ""
        await say(chat, "and now?")
        assert contents(engine.requests[-1]) == ["You are a test.", "and now?"]
        assert await statuses(database) == ["failed", "done"]

    async def test_a_member_who_opted_out_is_answered_and_not_remembered(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        await database.run(lambda session: opt_out(session, user_id=ANN.user_id, now=datetime.now(UTC)))
        chat = make_chat()
        reply = await say(chat, "hello")
        assert (reply.text, reply.saved, reply.remembered) == ("You said: hello", True, False)
        await say(chat, "again")
        assert contents(engine.requests[-1]) == ["You are a test.", "again"]
        engine.fail(500)
        with pytest.raises(EngineUnavailable):
            await say(chat, "broken")
        assert await turns(database) == []


class TestRefused:
    @pytest.mark.parametrize("text", ["", "   \n", "\ud800\udfff "])
    async def test_nothing_to_say(self, make_chat: MakeChat, database: Database, text: str):
        with pytest.raises(EmptyMessage):
            await say(make_chat(), text)
        assert await turns(database) == []

    async def test_nul_characters(self, make_chat: MakeChat, database: Database):
        with pytest.raises(NulCharacters):
            await say(make_chat(), "a\x00b")
        assert await turns(database) == []

    async def test_too_long(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        chat = make_chat(max_message_chars=20)
        await say(chat, "x" * 20)
        with pytest.raises(MessageTooLong, match="21 characters, and the limit is 20"):
            await say(chat, "x" * 21)
        assert len(await turns(database)) == 1

    async def test_the_same_interaction_twice(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        chat = make_chat()
        await say(chat, "one", interaction_id=99)
        with pytest.raises(Duplicate):
            await say(chat, "one", interaction_id=99)
        assert len(engine.requests) == 1
        assert len(await turns(database)) == 1

    async def test_over_the_limit_of_waiting_messages_the_answer_is_busy_at_once(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        chat = make_chat(max_waiting=8)
        for _ in range(8):
            engine.hang()
        tasks = [asyncio.create_task(say(chat, "hi", DialogKey(1, user))) for user in range(50)]
        done, _ = await asyncio.wait(tasks, timeout=1)
        assert len(done) == 42
        assert all(isinstance(task.exception(), Busy) for task in done)
        await asyncio.wait_for(engine.arrived(8), 10)
        assert len(await turns(database)) == 8
        engine.release()
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(reply, ChatReply) for reply in replies) == 8

    async def test_one_member_cannot_take_every_slot(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat(max_waiting=8)
        engine.hang()
        flood = [asyncio.create_task(say(chat, "me me me")) for _ in range(8)]
        await asyncio.wait_for(engine.arrived(1), 10)
        assert (await asyncio.wait_for(say(chat, "hello", BOB), 10)).saved
        engine.release()
        outcome = await asyncio.gather(*flood, return_exceptions=True)
        assert sum(isinstance(reply, Busy) for reply in outcome) == 6


class TestOrder:
    async def test_one_dialog_in_order_and_others_do_not_wait(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat()
        engine.hang("slow")
        first = asyncio.create_task(say(chat, "first"))
        await asyncio.wait_for(engine.arrived(1), 10)
        second = asyncio.create_task(say(chat, "second"))
        other = await asyncio.wait_for(say(chat, "elsewhere", BOB), 10)
        assert other.text == "You said: elsewhere"
        assert not second.done()
        engine.release()
        assert (await first).text == "slow"
        await second
        assert contents(engine.requests[-1]) == ["You are a test.", "first", "slow", "second"]

    async def test_two_guilds_at_the_same_time_share_nothing(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database, client: EngineClient
    ):
        chat = make_chat()
        personas = PersonaService(database, client, Settings(_env_file=None))
        await personas.set(ANN, "guild", "alpha persona")
        await personas.set(BOB, "guild", "beta persona")
        engine.default = lambda request: Script(deltas=("reply to ", request.last), pace=0.05)

        async def talk(key: DialogKey, word: str) -> None:
            for number in range(5):
                await say(chat, f"{word} {number}", key)

        await asyncio.gather(talk(ANN, "alpha"), talk(BOB, "beta"))
        for request in engine.requests:
            text = " ".join(contents(request))
            assert ("alpha" in text) != ("beta" in text)
        assert engine.max_running == 2

    async def test_b23_reset_does_not_wait_and_the_late_reply_is_shown_but_not_remembered(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        chat = make_chat()
        await say(chat, "old")
        engine.hang("late")
        running = asyncio.create_task(say(chat, "slow"))
        await asyncio.wait_for(engine.arrived(2), 10)
        assert (await asyncio.wait_for(chat.dialogs.reset(ANN), 5)).pairs == 1
        engine.release()
        reply = await running
        assert (reply.text, reply.saved, reply.remembered) == ("late", True, False)
        await say(chat, "new")
        assert contents(engine.requests[-1]) == ["You are a test.", "new"]
        assert "pending" not in await statuses(database)

    @pytest.mark.parametrize("guilds", [8, pytest.param(20, marks=pytest.mark.long)])
    async def test_many_at_once(self, make_chat: MakeChat, engine: FakeEngine, database: Database, guilds: int):
        """Three messages of each of three members in each guild, all at the same time."""
        chat = make_chat(max_waiting=500)
        engine.default = lambda request: Script(deltas=("re: ", request.last), hang=True)
        keys = [DialogKey(guild, user) for guild in range(1, guilds + 1) for user in (10, 11, 12)]
        sent = [say(chat, f"{number} by {key}", key) for number in range(3) for key in keys]
        replying = asyncio.gather(*sent)
        await asyncio.wait_for(engine.arrived(len(keys)), 60)
        assert engine.running == len(keys)  # one of each member: members do not wait for each other
        engine.release()
        replies = await asyncio.wait_for(replying, 120)
        assert all(reply.saved and reply.remembered for reply in replies)
        for key in keys:
            pairs = await chat.turns.history(key, 10)
            assert [pair.user for pair in pairs] == [f"{number} by {key}" for number in range(3)]
            assert [pair.reply for pair in pairs] == [f"re: {number} by {key}" for number in range(3)]
