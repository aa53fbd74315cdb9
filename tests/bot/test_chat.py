"""The use case over real sockets and real databases: what is stored, what is sent, what is said when it goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

from bot.chat import ChatReply, ChatRequest, ChatService
from bot.engine import EngineClient
from bot.errors import (
    BotError,
    Busy,
    DatabaseUnavailable,
    Duplicate,
    EmptyMessage,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    MessageTooLong,
    PromptTooLong,
    ShuttingDown,
)
from bot.personas import PersonaService
from bot.settings import Settings
from models.database import Database
from models.queries.privacy import opt_out
from models.types import DialogKey
from tests.bot.database_view import turns
from tests.fake_engine import FakeEngine, Request, Script, words

ANN = DialogKey(guild_id=1, user_id=10)
BOB = DialogKey(guild_id=2, user_id=20)

MakeChat = Callable[..., ChatService]


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as server:
        yield server


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[EngineClient]:
    async with EngineClient(engine.url) as opened:
        yield opened


@pytest.fixture
async def make_chat(database: Database, client: EngineClient) -> AsyncIterator[MakeChat]:
    made: list[ChatService] = []

    def make(**values: object) -> ChatService:
        settings = Settings(_env_file=None, persona="You are a test.", **values)
        made.append(ChatService(database=database, engine=client, settings=settings))
        return made[-1]

    yield make
    for chat in made:
        await chat.close(0)


async def say(chat: ChatService, text: str, key: DialogKey = ANN, **values: object) -> ChatReply:
    async def ignore(piece: str) -> None:
        pass

    return await chat.chat(ChatRequest(key, text, **values), ignore)


def contents(request: Request) -> list[str]:
    return [message["content"] for message in request.messages]


class TestOneTurn:
    async def test_a_reply_streams_and_is_stored(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        engine.reply("Hel", "lo ", "Ann")
        chat = make_chat()
        pieces: list[str] = []

        async def on_delta(piece: str) -> None:
            pieces.append(piece)

        reply = await chat.chat(ChatRequest(ANN, "  Hi\x00 there\ud800 "), on_delta)

        assert pieces == ["Hel", "lo ", "Ann"]
        assert (reply.text, reply.saved, reply.remembered) == ("Hello Ann", True, True)
        assert reply.finish_reason == "stop"
        assert reply.completion_tokens == 3
        assert reply.prompt_tokens == words(engine.requests[0].messages)
        assert contents(engine.requests[0]) == ["You are a test.", "Hi there"]
        [pair] = await chat.history(ANN, 10)
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
        assert [turn.status for turn in await turns(database)] == ["done"] * 13

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
        assert [turn.status for turn in await turns(database)] == ["failed", "done"]

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
    @pytest.mark.parametrize("text", ["", "   \n", "\x00", "\ud800\udfff "])
    async def test_nothing_to_say(self, make_chat: MakeChat, database: Database, text: str):
        with pytest.raises(EmptyMessage):
            await say(make_chat(), text)
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

    async def test_beyond_the_places_the_answer_is_busy_at_once(
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

    async def test_one_member_cannot_take_every_place(self, make_chat: MakeChat, engine: FakeEngine):
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
        assert engine.most_running == 2

    async def test_reset_does_not_wait_and_the_late_reply_is_shown_but_not_remembered(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        chat = make_chat()
        await say(chat, "old")
        engine.hang("late")
        running = asyncio.create_task(say(chat, "slow"))
        await asyncio.wait_for(engine.arrived(2), 10)
        assert await asyncio.wait_for(chat.reset(ANN), 5) == 1
        engine.release()
        reply = await running
        assert (reply.text, reply.saved, reply.remembered) == ("late", True, False)
        await say(chat, "new")
        assert contents(engine.requests[-1]) == ["You are a test.", "new"]
        assert "pending" not in {turn.status for turn in await turns(database)}

    async def test_many_at_once(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        """Three messages of each of 60 members in 20 guilds, all at the same time."""
        chat = make_chat(max_waiting=500)
        engine.default = lambda request: Script(deltas=("re: ", request.last), hang=True)
        keys = [DialogKey(guild, user) for guild in range(1, 21) for user in (10, 11, 12)]
        sent = [say(chat, f"{number} by {key}", key) for number in range(3) for key in keys]
        replying = asyncio.gather(*sent)
        await asyncio.wait_for(engine.arrived(60), 60)
        assert engine.running == 60  # one of each member: nobody waits for anybody else
        engine.release()
        replies = await asyncio.wait_for(replying, 120)
        assert all(reply.saved and reply.remembered for reply in replies)
        for key in keys:
            pairs = await chat.history(key, 10)
            assert [pair.user for pair in pairs] == [f"{number} by {key}" for number in range(3)]
            assert [pair.reply for pair in pairs] == [f"re: {number} by {key}" for number in range(3)]


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
    async def test_a_failed_reply_leaves_no_trace_in_the_history(
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

    async def test_nobody_listens(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        chat = make_chat()
        await engine.stop()
        with pytest.raises(EngineUnavailable):
            await say(chat, "anyone?")
        await engine.start()
        assert (await say(chat, "again")).saved
        assert [turn.status for turn in await turns(database)] == ["failed", "done"]

    async def test_silence_ends_after_the_timeout(self, make_chat: MakeChat, engine: FakeEngine, database: Database):
        chat = make_chat(reply_timeout=0.3)
        engine.reply(*"slow but steady", pace=0.05)
        assert (await say(chat, "steady")).text == "slow but steady"
        engine.hang("a word, then")
        with pytest.raises(EngineTimeout):
            await asyncio.wait_for(say(chat, "hang"), 5)
        for _ in range(100):
            if engine.requests[-1].cancelled:
                break
            await asyncio.sleep(0.02)
        assert engine.requests[-1].cancelled
        assert [turn.status for turn in await turns(database)] == ["done", "failed"]

    async def test_stop_keeps_what_was_said(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat()
        assert not await chat.stop(ANN)
        engine.hang("This ", "far")
        heard = asyncio.Event()

        async def on_delta(piece: str) -> None:
            if piece == "far":
                heard.set()

        running = asyncio.create_task(chat.chat(ChatRequest(ANN, "talk"), on_delta))
        await asyncio.wait_for(heard.wait(), 10)
        assert await chat.stop(ANN)
        reply = await asyncio.wait_for(running, 5)
        assert (reply.text, reply.finish_reason, reply.remembered) == ("This far", "stopped", True)
        assert [pair.reply for pair in await chat.history(ANN, 10)] == ["This far"]

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
        assert [turn.status for turn in await turns(database)] == expected

    async def test_a_hundred_cancels_at_any_moment_leave_nothing_pending_and_no_connection_out(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        chat = make_chat(max_waiting=200)
        engine.default = lambda request: Script(deltas=("a", "b", "c"), pace=0.01)
        tasks = [asyncio.create_task(say(chat, "hi", DialogKey(1, user))) for user in range(100)]
        for number, task in enumerate(tasks):
            asyncio.get_running_loop().call_later(number * 0.004, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert "pending" not in {turn.status for turn in await turns(database)}
        assert all(pool.pool.checkedout() == 0 for pool in database.engines)
        assert (await say(chat, "still there?")).saved

    async def test_what_on_delta_raises_comes_out_and_the_turn_fails(
        self, make_chat: MakeChat, engine: FakeEngine, database: Database
    ):
        async def gone(piece: str) -> None:
            raise LookupError("the message was deleted")

        with pytest.raises(LookupError):
            await make_chat().chat(ChatRequest(ANN, "hi"), gone)
        assert [turn.status for turn in await turns(database)] == ["failed"]

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
        assert sorted(turn.status for turn in await turns(database)) == ["done", "interrupted"]


class TestContext:
    async def test_the_oldest_pairs_go_until_the_prompt_fits(self, make_chat: MakeChat, engine: FakeEngine):
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
        assert len(await chat.history(ANN, 100)) == 10

    async def test_few_counts(self, make_chat: MakeChat, engine: FakeEngine):
        chat = make_chat(max_reply_tokens=60, max_chat_logs=100)
        engine.default = lambda request: Script(deltas=("word " * 20,))
        for number in range(40):
            await say(chat, f"{number} " + "word " * 20)
        engine.context = engine.max_model_len = 600
        engine.calls.clear()
        await say(chat, "word " * 20)
        assert engine.calls.count("/tokenize") <= 4

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
        assert [turn.status for turn in await turns(database)] == ["done", "failed"]
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
