"""What is remembered of a dialog and when, with an engine that writes what it is told to; nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.memory.job import MemoryJob
from bot.memory.quiet import QuietTime
from bot.memory.service import MemoryService
from bot.memory.writer import PAIRS_AT_ONCE, MemoryWriter
from bot.settings import Settings
from models import queries
from models.database import Database
from models.queries.dialogs.prompts import prompt_of_turn
from models.queries.memory import facts, summaries, work
from models.queries.tenants.member_settings import set_member_memory
from models.tables import OptOut
from models.types import DialogKey, GuildSettings, Summary
from tests.bot.chat.chat_kit import contents, say
from tests.bot.stored_turns import turn_result
from tests.fakes.engine import FakeEngine, Script
from tests.fakes.engine.notes import note_taker

ANN = DialogKey(1, 10)
BOB = DialogKey(1, 20)
SHARED = DialogKey(1, 10, 5, shared=True)
NOW = datetime.now(UTC)


async def tell(database: Database, key: DialogKey, *said: str, at: datetime = NOW) -> int:
    """Store pairs; return the id of the dialog."""
    dialog_id = 0
    for number, text in enumerate(said):
        async with database.write() as session:
            author = f"member {key.user_id}" if key.shared else None
            when = at + timedelta(milliseconds=number)
            turn = await queries.begin_turn(session, key=key, text=text, limit=0, author=author, now=when)
            await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=turn_result(), now=when)
            dialog_id = turn.dialog_id
    return dialog_id


async def want(database: Database, *keys: DialogKey, guild: bool = True) -> None:
    async with database.write() as session:
        if guild:
            chosen = GuildSettings(memory=True)
            await queries.set_guild_settings(session, key=ANN, settings=chosen, actor_id=None, now=NOW)
        for key in keys:
            await set_member_memory(session, key=key, memory=True, now=NOW)


class Kit:
    def __init__(self, database: Database, engine: FakeEngine, client: EngineClient) -> None:
        self.database, self.engine, self.client = database, engine, client
        self.settings = Settings(_env_file=None, max_chat_logs=4)
        self.quiet = QuietTime()
        engine.default = note_taker

    def job(self, **options: float) -> MemoryJob:
        writer = MemoryWriter(database=self.database, engine=self.client, settings=self.settings)
        return MemoryJob(database=self.database, writer=writer, quiet=self.quiet, **options)

    async def facts(self, key: DialogKey = ANN) -> list[str]:
        async with self.database.read() as session:
            return [fact.text for fact in reversed(await facts.facts_of(session, key=key))]

    async def summary(self, key: DialogKey = ANN) -> Summary | None:
        async with self.database.read() as session:
            return await summaries.summary_of(session, key=key)


@pytest.fixture
def kit(database: Database, engine: FakeEngine, client: EngineClient) -> Kit:
    return Kit(database, engine, client)


class TestWriter:
    async def test_nothing_is_remembered_of_who_did_not_ask(self, kit: Kit) -> None:
        await tell(kit.database, ANN, *(f"I like {word}" for word in "abcdefgh"))
        assert await kit.job().run_once() == 0
        await want(kit.database, BOB)
        assert await kit.job().run_once() == 0
        assert kit.engine.requests == []

    async def test_the_older_half_of_a_full_prompt_is_remembered(self, kit: Kit) -> None:
        await want(kit.database, ANN)
        await tell(kit.database, ANN, "I like tea", "How are you?", "I live in Rome")
        assert await kit.job().run_once() == 0, "all of it still stands in prompts"
        await tell(kit.database, ANN, "I run")
        assert await kit.job().run_once() == 1
        assert await kit.facts() == ["The user like tea"]
        summary = await kit.summary()
        assert summary is not None
        assert summary.text == "They spoke of I like tea, How are you?."
        assert await kit.job().run_once() == 0
        await tell(kit.database, ANN, "I swim", "I dance")
        assert await kit.job().run_once() == 1
        summary = await kit.summary()
        assert summary is not None
        assert summary.text.splitlines()[1] == "They spoke of I live in Rome, I run."
        assert set(await kit.facts()) == {"The user like tea", "The user live in Rome", "The user run"}
        # Each message once, and none that only asks.
        read = [request.last for request in kit.engine.requests if request.last.startswith("Message: ")]
        assert read == ["Message: I like tea", "Message: I live in Rome", "Message: I run"]

    async def test_a_long_dialog_is_caught_up_with(self, kit: Kit) -> None:
        await want(kit.database, ANN)
        await tell(kit.database, ANN, *(f"I know number {number} well" for number in range(5 * PAIRS_AT_ONCE)))
        while await kit.job().run_once():
            pass
        summary = await kit.summary()
        assert summary is not None
        assert len(summary.text.splitlines()) == 5
        assert len(summary.text) <= 1200
        assert len(await kit.facts()) == 5 * PAIRS_AT_ONCE - 2

    async def test_a_dialog_that_rests_or_ended_is_searched_to_its_end(self, kit: Kit) -> None:
        await want(kit.database, ANN, BOB)
        await tell(kit.database, ANN, "I like tea", at=NOW - timedelta(minutes=11))
        await tell(kit.database, BOB, "I like rum")
        assert await kit.job().run_once() == 1
        async with kit.database.write() as session:
            await queries.end_dialog(session, key=BOB, now=NOW)
        assert await kit.job().run_once() == 1
        assert await kit.facts() + await kit.facts(BOB) == ["The user like tea", "The user like rum"]
        assert await kit.summary() is None
        assert await kit.job().run_once() == 0

    async def test_a_shared_dialog_has_facts_of_those_who_asked_about_themselves(self, kit: Kit) -> None:
        bob = DialogKey(1, 20, 5, shared=True)
        await want(kit.database, ANN)
        await tell(kit.database, SHARED, "I like tea", "I like member 20 best")
        await tell(kit.database, bob, "I am here", "I like rum")
        assert await kit.job().run_once() == 1
        assert await kit.facts() == ["The user like tea"]
        assert await kit.facts(BOB) == []
        summary = await kit.summary(SHARED)
        assert summary is not None
        assert "They spoke of I like tea" in summary.text

    async def test_attack_a_fact_of_another_member_in_a_dialog_that_ended(self, kit: Kit) -> None:
        """Who speaks late in it is another member, too, although another dialog is open now."""
        bob = DialogKey(1, 20, 5, shared=True)
        await want(kit.database, ANN)
        told = ("I like tea", "I like member 20 best", "I like ale", "I like jam", "I like figs", "I like rice")
        await tell(kit.database, SHARED, *told)
        await tell(kit.database, bob, "Here, too")
        async with kit.database.write() as session:
            await queries.end_dialog(session, key=SHARED, now=NOW)
        await tell(kit.database, SHARED, "Hello")
        await kit.job().run_once()
        known = await kit.facts()
        assert "The user like tea" in known
        assert not any("member 20" in fact for fact in known)

    @pytest.mark.parametrize("answer", ["", "no", '{"facts": ["The user sails."]}', "{" * 999, '{"summary": 1}'])
    async def test_nonsense_is_dropped_and_not_asked_for_again(self, kit: Kit, answer: str) -> None:
        await want(kit.database, ANN)
        await tell(kit.database, ANN, *(f"I like {word}" for word in ("tea", "rum", "ale", "jam")))
        kit.engine.default = lambda request: Script(deltas=(answer,))
        assert await kit.job().run_once() == 1
        assert await kit.facts() == []
        assert await kit.job().run_once() == 0

    async def test_a_server_without_schemas_is_asked_in_words(self, kit: Kit) -> None:
        kit.engine.refused_fields = frozenset({"response_format"})
        kit.engine.default = lambda request: Script(deltas=("- The user likes tea a lot",))
        await want(kit.database, ANN)
        await tell(kit.database, ANN, "I like tea a lot", "b?", "c?", "d?")
        assert await kit.job().run_once() == 1
        assert await kit.facts() == ["The user likes tea a lot"]

    async def test_a_failure_is_tried_again_later(self, kit: Kit) -> None:
        await want(kit.database, ANN)
        await tell(kit.database, ANN, *(f"I like {word}" for word in ("tea", "rum", "ale", "jam")))
        kit.engine.fail(500)
        assert await kit.job().run_once() == 1
        assert await kit.facts() == []
        assert await kit.job().run_once() == 0, "not at once"
        async with kit.database.read() as session:
            later = datetime.now(UTC) + timedelta(minutes=5)
            found = await work.dialogs_to_remember(session, active_after=NOW - timedelta(days=1), limit=9, now=later)
        assert len(found) == 1

    async def test_a_pair_that_is_forgotten_meanwhile_stays_forgotten(self, kit: Kit) -> None:
        await want(kit.database, ANN)
        await tell(kit.database, ANN, *(f"I like {word}" for word in ("tea", "rum", "ale", "jam")))
        kit.engine.hang('{"facts": ["The user like tea"]}')
        job = asyncio.ensure_future(kit.job().run_once())
        await kit.engine.arrived(1)
        async with kit.database.write() as session:
            assert await queries.forget_last(session, key=ANN, count=4) == 4
        kit.engine.release()
        await job
        assert await kit.facts() == []
        assert await kit.summary() is None

    @pytest.mark.parametrize("by", ["member", "guild", "optout"])
    async def test_attack_memory_switched_off_while_the_model_writes(self, kit: Kit, by: str) -> None:
        """What the model was asked for before, and answers after, is kept no more."""
        await want(kit.database, ANN)
        await tell(kit.database, ANN, *(f"I like {word}" for word in ("tea", "rum", "ale", "jam")))
        kit.engine.hang('{"facts": ["The user like tea"]}')
        job = asyncio.ensure_future(kit.job().run_once())
        await kit.engine.arrived(1)
        if by == "member":
            await MemoryService(kit.database, kit.settings).switch(ANN, on=False)
        elif by == "optout":
            async with kit.database.write() as session:
                session.add(OptOut(user_id=ANN.user_id, since=NOW))
        else:
            async with kit.database.write() as session:
                await queries.set_guild_settings(session, key=ANN, settings=GuildSettings(), actor_id=None, now=NOW)
        kit.engine.release()
        await job
        assert await kit.facts() == []
        assert await kit.summary() is None

    @pytest.mark.parametrize("during", ["facts", "summary"])
    async def test_attack_everything_forgotten_while_the_model_writes(self, kit: Kit, during: str) -> None:
        """What it answers then is not kept, and what was said before is not remembered later either."""
        service = MemoryService(kit.database, kit.settings)
        await want(kit.database, ANN)
        told = ("I like tea", "I like rum", "I like ale", "I like jam")
        await tell(kit.database, ANN, *told, at=NOW - timedelta(minutes=1))
        if during == "summary":
            kit.engine.default = lambda request: Script(deltas=('{"facts": []}',))
            kit.engine.reply('{"facts": []}')
            kit.engine.reply('{"facts": []}')
        kit.engine.hang(
            '{"facts": ["The user like tea"]}' if during == "facts" else '{"summary": "They spoke of tea."}'
        )
        job = asyncio.ensure_future(kit.job().run_once())
        await kit.engine.arrived(1 if during == "facts" else 3)
        assert await service.forget_all(ANN) == 0
        kit.engine.release()
        kit.engine.default = note_taker
        await job
        assert await kit.facts() == []
        assert await kit.summary() is None
        before = len(kit.engine.requests)
        while await kit.job().run_once():
            pass
        async with kit.database.write() as session:
            await queries.end_dialog(session, key=ANN, now=NOW)
        while await kit.job().run_once():
            pass
        assert len(kit.engine.requests) == before, "nothing is asked about it either"
        # What is said from now on is remembered as ever.
        await tell(kit.database, ANN, *told, at=datetime.now(UTC))
        assert await kit.job().run_once() == 1
        assert await kit.facts() == ["The user like tea", "The user like rum"]
        summary = await kit.summary()
        assert summary is not None
        assert summary.text == "They spoke of I like tea, I like rum."

    async def test_what_others_said_in_a_shared_dialog_is_still_remembered(self, kit: Kit) -> None:
        bob = DialogKey(1, 20, 5, shared=True)
        await want(kit.database, ANN, BOB)
        await tell(kit.database, SHARED, "I like tea", at=NOW - timedelta(minutes=1))
        await tell(kit.database, bob, "I like rum", "I run", "I swim", at=NOW - timedelta(minutes=1))
        await MemoryService(kit.database, kit.settings).forget_all(ANN)
        assert await kit.job().run_once() == 1
        assert (await kit.facts(), await kit.facts(BOB)) == ([], ["The user like rum"])
        summary = await kit.summary(SHARED)
        assert summary is not None
        assert summary.text == "They spoke of I like tea, I like rum."


class TestQuiet:
    async def test_a_message_cancels_the_work_at_once_and_it_goes_on_later(
        self, kit: Kit, make_chat: Callable[..., ChatService]
    ) -> None:
        chat = make_chat(max_chat_logs=4)
        kit.quiet = chat.quiet
        await want(kit.database, ANN)
        await tell(kit.database, ANN, *(f"I like {word}" for word in ("tea", "rum", "ale", "jam")))
        kit.engine.hang('{"facts"')
        job = kit.job(settle=0.01, poll=60)
        job.start()
        await kit.engine.arrived(1)
        reply = await say(chat, "Hello")
        assert reply.text == "You said: Hello"
        assert kit.engine.requests[0].cancelled
        for _ in range(200):
            if await kit.summary() is not None:
                break
            await asyncio.sleep(0.02)
        assert len(await kit.facts()) >= 2
        await job.close()

    async def test_no_work_begins_while_a_reply_is_written(
        self, kit: Kit, make_chat: Callable[..., ChatService]
    ) -> None:
        chat = make_chat(max_chat_logs=4)
        kit.quiet = chat.quiet
        await want(kit.database, ANN)
        await tell(kit.database, ANN, *(f"I like {word}" for word in ("tea", "rum", "ale", "jam")))
        kit.engine.hang("Once ")
        reply = asyncio.ensure_future(say(chat, "Tell me a story", BOB))
        await kit.engine.arrived(1)
        assert await kit.job().run_once() == 0
        assert len(kit.engine.requests) == 1
        kit.engine.release()
        await reply
        assert await kit.job().run_once() == 1

    async def test_no_work_begins_while_others_use_the_engine(self, kit: Kit) -> None:
        await want(kit.database, ANN)
        await tell(kit.database, ANN, *(f"I like {word}" for word in ("tea", "rum", "ale", "jam")))
        for running, waiting in ((1, 0), (0, 2)):
            kit.engine.metrics = (
                "# HELP guildllama_engine_running Requests in the running batch\n"
                f"guildllama_engine_running {running}.0\nguildllama_engine_waiting {waiting}.0\n"
            )
            assert await kit.job().run_once() == 0
        assert kit.engine.requests == []
        kit.engine.metrics = "guildllama_engine_running 0.0\nguildllama_engine_waiting 0.0\n"
        assert await kit.job().run_once() == 1

    async def test_a_cancelled_caller_is_cancelled(self) -> None:
        quiet, began = QuietTime(), asyncio.Event()

        async def work_long() -> None:
            began.set()
            await asyncio.sleep(60)

        caller = asyncio.ensure_future(quiet.run(work_long))
        await began.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert await quiet.run(lambda: asyncio.sleep(0, "free again")) == "free again"


class TestPrompts:
    async def test_what_is_remembered_stands_in_the_prompt_and_its_record(
        self, kit: Kit, make_chat: Callable[..., ChatService]
    ) -> None:
        chat = make_chat(max_chat_logs=2)
        await want(kit.database, ANN)
        await tell(kit.database, ANN, "I like tea", "b", "c")
        kit.settings = Settings(_env_file=None, max_chat_logs=2)
        assert await kit.job().run_once() == 1
        reply = await say(chat, "Tea?")
        system, *pairs, last = contents(kit.engine.requests[-1])
        assert system.startswith("You are a test.\n\n[Notes from earlier in this conversation.")
        assert "They spoke of I like tea" in system
        assert "- The user like tea\n" in last
        assert last.endswith("\n\nTea?")
        assert pairs == ["b", "ho", "c", "ho"]
        async with kit.database.read() as session:
            used = await prompt_of_turn(session, key=ANN, turn_id=reply.turn_id)
            history = await queries.history(session, key=ANN, limit=9)
        assert used is not None
        assert [fact.text for fact in used.facts] == ["The user like tea"]
        assert used.summary is not None
        assert (used.record.num_pairs, used.num_before) == (2, 3)
        assert used.record.first_turn_id == history[1].turn_id
        assert (used.record.persona_id, used.persona_name) == (None, None)
        assert history[-1].user == "Tea?", "notes are no part of what was said"

    async def test_a_context_that_is_too_short_has_no_memory(
        self, kit: Kit, make_chat: Callable[..., ChatService]
    ) -> None:
        chat = make_chat(max_chat_logs=2, max_reply_tokens=5)
        await want(kit.database, ANN)
        await tell(kit.database, ANN, "I like tea and " + "cake " * 20)
        async with kit.database.write() as session:
            await facts.add_fact(session, key=ANN, text="The user likes " + "very " * 30 + "good tea.", now=NOW)
        kit.engine.context = kit.engine.max_model_len = 64
        long = " ".join(["word"] * 42)
        reply = await say(chat, long)
        assert contents(kit.engine.requests[-1]) == ["You are a test.", long]
        async with kit.database.read() as session:
            used = await prompt_of_turn(session, key=ANN, turn_id=reply.turn_id)
        assert used is not None
        assert used.record.fact_ids == ()
