"""Failed replies, prompts that do not fit, databases that go away: what is stored, and what the member reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bot.chat.requests import ChatRequest
from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.errors import (
    BotError,
    Busy,
    DatabaseUnavailable,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    PromptTooLong,
    ShuttingDown,
)
from bot.settings import Settings
from models.database import Database
from models.types import DialogKey
from tests.bot.chat.chat_kit import ANN, BOB, MakeChat, contents, say
from tests.bot.stored_turns import statuses, turns
from tests.fakes.engine import FakeEngine, Script, words


class TestTrouble:
    @pytest.mark.parametrize(
        ("break_it", "error"),
        [
            (lambda engine: engine.fail(500), EngineUnavailable),
            (lambda engine: engine.fail(503), EngineUnavailable),
            (lambda engine: engine.drop("half a sen"), EngineUnavailable),
            (lambda engine: engine.fail_in_stream("half"), EngineUnavailable),
            (lambda engine: engine.reply("half", finish_reason="error"), EngineUnavailable),
            (lambda engine: engine.fail(401), EngineRefused),
            (lambda engine: engine.fail(429, Retry_After="7"), Busy),
        ],
    )
    async def test_b19_a_failed_reply_leaves_no_trace_in_the_history(
        self,
        make_chat: MakeChat,
        engine: FakeEngine,
        database: Database,
        break_it: Callable[[FakeEngine], None],
        error: type[BotError],
    ):
        chat = make_chat()
        await say(chat, "before")
        break_it(engine)
        with pytest.raises(error) as caught:
            await say(chat, "broken")
        assert "Please" in caught.value.user_message or "log" in caught.value.user_message
        await say(chat, "after")
        assert contents(engine.requests[-1]) == ["You are a test.", "before", "You said: before", "after"]
        stored = await turns(database)
        assert [turn.status for turn in stored] == ["done", "failed", "done"]
        assert stored[1].error_id == caught.value.error_id

    async def test_busy_names_the_seconds_of_retry_after(self, make_chat: MakeChat, engine: FakeEngine):
        engine.fail(429, Retry_After="7")
        with pytest.raises(Busy, match="in 7 s"):
            await say(make_chat(), "hi")

    async def test_no_engine_listens(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        chat = make_chat()
        await engine.stop()
        with pytest.raises(EngineUnavailable):
            await say(chat, "anyone?")
        await engine.start()
        assert (await say(chat, "again")).saved
        assert await statuses(database) == ["failed", "done"]

    async def test_fault_25_silence_ends_after_the_timeout(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        chat = make_chat(reply_timeout=0.3)
        engine.reply(*"slow but steady", pace=0.05)
        assert (await say(chat, "steady")).text == "slow but steady"
        engine.hang("a word, then")
        with pytest.raises(EngineTimeout):
            await asyncio.wait_for(say(chat, "hang"), 5)
        await engine.cancelled(-1)
        assert await statuses(database) == ["done", "failed"]

    async def test_stop_keeps_what_was_said(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat()
        assert not await chat.stop(ANN)
        engine.hang("This ", "far")
        shown = asyncio.Event()

        async def on_delta(piece: str) -> None:
            if piece.endswith("far"):
                shown.set()

        running = asyncio.create_task(chat.chat(ChatRequest(ANN, "talk"), on_delta))
        await asyncio.wait_for(shown.wait(), 10)
        assert await chat.stop(ANN)
        reply = await asyncio.wait_for(running, 5)
        assert (reply.text, reply.finish_reason, reply.remembered) == ("This far", "stopped", True)
        assert [pair.reply for pair in await chat.turns.history(ANN, 10)] == ["This far"]

    @pytest.mark.parametrize("moment", ["waiting", "generating"])
    async def test_cancelled(self, make_chat: MakeChat, engine: FakeEngine, database: Database, moment: str):
        chat = make_chat()
        engine.hang("half")
        first = asyncio.create_task(say(chat, "first"))
        await asyncio.wait_for(engine.arrived(1), 10)
        victim = asyncio.create_task(say(chat, "second")) if moment == "waiting" else first
        await asyncio.sleep(0.05)
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        engine.release()
        await asyncio.gather(first, return_exceptions=True)
        expected = {"waiting": ["done"], "generating": ["interrupted"]}[moment]
        assert await statuses(database) == expected

    async def test_a_hundred_cancels_at_any_moment_leave_nothing_pending_and_no_connection_out(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        chat = make_chat(max_waiting=200)
        engine.default = lambda request: Script(deltas=("a", "b", "c"), pace=0.01)
        tasks = [asyncio.create_task(say(chat, "hi", DialogKey(1, user))) for user in range(100)]
        for number, task in enumerate(tasks):
            asyncio.get_running_loop().call_later(number * 0.004, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert "pending" not in await statuses(database)
        assert all(pool.pool.checkedout() == 0 for pool in database.engines)
        assert (await say(chat, "still there?")).saved

    async def test_what_on_delta_raises_comes_out_and_the_turn_fails(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        async def gone(piece: str) -> None:
            raise LookupError("the message was deleted")

        with pytest.raises(LookupError):
            await make_chat().chat(ChatRequest(ANN, "hi"), gone)
        assert await statuses(database) == ["failed"]

    async def test_close_lets_replies_end_and_interrupts_the_rest(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        chat = make_chat()
        engine.hang("never")
        engine.reply("soon", pace=0.2)
        hung = asyncio.create_task(say(chat, "hang"))
        await asyncio.wait_for(engine.arrived(1), 10)
        queued = asyncio.create_task(say(chat, "behind it"))
        quick = asyncio.create_task(say(chat, "quick", BOB))
        await asyncio.wait_for(engine.arrived(2), 10)
        await asyncio.wait_for(chat.close(0.6), 5)
        assert (await quick).text == "soon"
        for task in (hung, queued):
            with pytest.raises(ShuttingDown):
                await task
        with pytest.raises(ShuttingDown):
            await say(chat, "too late", BOB)
        assert sorted(await statuses(database)) == ["done", "interrupted"]


class TestContext:
    async def test_b20_the_oldest_pairs_go_until_the_prompt_fits(self, make_chat: MakeChat, engine: FakeEngine):
        engine.context = engine.max_model_len = 200
        chat = make_chat(max_reply_tokens=60)
        for number in range(10):
            reply = await say(chat, f"{number} " + "word " * 20)
        sent = engine.requests[-1]
        taken = words(sent.messages)
        assert taken + 60 <= 200
        assert taken + 60 + 2 * (21 + 4) + 3 > 200  # one pair more would not have fitted
        assert contents(sent)[0] == "You are a test."
        assert sent.last.startswith("9 ")
        assert reply.pairs_in_prompt == (len(sent.messages) - 2) // 2
        assert taken + sent.body["max_tokens"] <= 200
        assert len(await chat.turns.history(ANN, 100)) == 10

    async def test_few_counts(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat(max_reply_tokens=60, max_chat_logs=100)
        engine.default = lambda request: Script(deltas=("word " * 20,))
        for number in range(40):
            await say(chat, f"{number} " + "word " * 20)
        engine.context = engine.max_model_len = 600
        engine.calls.clear()
        await say(chat, "word " * 20)
        assert engine.calls.count("/tokenize") == 1
        assert len(engine.requests) == 41  # none was refused
        assert words(engine.requests[-1].messages) + 60 + 2 * (21 + 4) + 3 > 600  # nor is a pair missing

    @pytest.mark.parametrize("overflow", ["openai", "vllm"])
    async def test_attack_a_server_that_counts_whole_prompts_only_is_asked_once(
        self, make_chat: MakeChat, engine: FakeEngine, overflow: str
    ):
        engine.fits, engine.overflow = False, overflow
        chat = make_chat(max_reply_tokens=60, max_chat_logs=100)
        engine.default = lambda request: Script(deltas=("word " * (len(request.last) % 40 + 1),))
        for number in range(40):
            await say(chat, f"{number} " + "word " * (number * 7 % 30))
        engine.context = engine.max_model_len = 600
        for _ in range(3):
            engine.calls.clear()
            reply = await say(chat, "word " * 20)
            assert engine.calls.count("/tokenize") == 1
            assert engine.calls.count("/v1/chat/completions") <= 3
            assert reply.pairs_in_prompt >= 8
            assert words(engine.requests[-1].messages) + engine.requests[-1].body["max_tokens"] <= 600

    @pytest.mark.parametrize("tokenize", [True, False])
    @pytest.mark.parametrize("overflow", ["openai", "vllm", "llama.cpp"])
    async def test_message_and_persona_alone_do_not_fit(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database, tokenize: bool, overflow: str
    ):
        engine.context = 100
        engine.max_model_len = 100 if tokenize else None
        engine.tokenize, engine.overflow = tokenize, overflow
        chat = make_chat(max_reply_tokens=20)
        await say(chat, "short")
        with pytest.raises(PromptTooLong) as caught:
            await say(chat, "word " * 150)
        assert caught.value.got == words([{"content": "You are a test."}, {"content": "word " * 150}])
        assert caught.value.limit == (80 if tokenize else 100)
        assert await statuses(database) == ["done", "failed"]
        assert (await say(chat, "short again")).pairs_in_prompt == 1

    @pytest.mark.parametrize("overflow", ["openai", "vllm", "llama.cpp"])
    async def test_a_server_that_does_not_count(self, make_chat: MakeChat, engine: FakeEngine, overflow: str):
        engine.tokenize, engine.overflow, engine.max_model_len, engine.context = False, overflow, None, 200
        chat = make_chat(max_reply_tokens=60)
        for number in range(8):
            reply = await say(chat, f"{number} " + "word " * 20)
        assert reply.pairs_in_prompt == 2
        assert engine.calls.count("/tokenize") == 1
        assert words(engine.requests[-1].messages) + 60 <= 200

    async def test_a_smaller_context_by_setting(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat(max_seq_len=100, max_reply_tokens=500)
        for number in range(4):
            await say(chat, f"{number} " + "word " * 15)
        for request in engine.requests:
            assert words(request.messages) + request.body["max_tokens"] <= 100


class TestDatabaseGone:
    async def test_before_the_reply(self, own_postgres, engine: FakeEngine, client: EngineClient):
        own_postgres.ensure_template()
        database = Database(own_postgres.url(own_postgres.create_migrated()))
        chat = ChatService(database=database, engine=client, settings=Settings(_env_file=None))
        await say(chat, "hello")
        own_postgres.stop()
        with pytest.raises(DatabaseUnavailable):
            await say(chat, "are you there?")
        assert len(engine.requests) == 1  # nothing was generated
        own_postgres.start()
        assert (await say(chat, "back again")).pairs_in_prompt == 1
        await database.close()

    @pytest.mark.parametrize("comes_back", [True, False])
    async def test_between_prompt_and_reply(
        self, own_postgres, engine: FakeEngine, client: EngineClient, comes_back: bool
    ):
        own_postgres.ensure_template()
        database = Database(own_postgres.url(own_postgres.create_migrated()))
        chat = ChatService(database=database, engine=client, settings=Settings(_env_file=None))
        engine.hang("a precious reply")
        running = asyncio.create_task(say(chat, "hello"))
        await asyncio.wait_for(engine.arrived(1), 10)
        await asyncio.to_thread(own_postgres.stop)
        engine.release()
        if comes_back:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own_postgres.start)
        reply = await asyncio.wait_for(running, 60)
        assert reply.text == "a precious reply"
        assert (reply.saved, reply.remembered) == (comes_back, comes_back)
        await database.close()
