"""Many chats at once: no connection leaks, order within a dialog holds, the event loop stays responsive."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import QueuePool

from models import queries
from models.database import Database
from models.errors import DuplicateInteraction
from models.queries import inspection
from models.types import DialogKey, TurnResult

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DONE = TurnResult("reply", 10, 5, "stop", 1, 2)


def checked_out(database: Database) -> int:
    """Connections that are not back in their pools."""
    pools = [engine.pool for engine in database.engines]
    return sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))


async def chat(database: Database, key: DialogKey, text: str, *, think: float, interaction: int | None = None) -> None:
    """One turn: begin, `think` seconds of generation without a connection, finish."""
    snapshot = await database.run(
        lambda session: queries.begin_turn(
            session, key=key, text=text, limit=10, interaction_id=interaction, now=datetime.now(UTC)
        )
    )
    await asyncio.sleep(think)
    assert await database.run(
        lambda session: queries.finish_turn(
            session, key=key, turn_id=snapshot.turn_id, result=DONE, now=datetime.now(UTC)
        )
    )


async def loop_lags(stop: asyncio.Event) -> list[float]:
    """How late the event loop wakes a task that sleeps for 5 ms, in seconds, until `stop` is set."""
    lags = []
    while not stop.is_set():
        started = time.perf_counter()
        await asyncio.sleep(0.005)
        lags.append(time.perf_counter() - started - 0.005)
    return lags


class TestBrief:
    """`Database.run(brief=True)`: on SQLite, statements run in the event loop's thread."""

    @staticmethod
    async def begin(database: Database, key: DialogKey, *, error: Exception | None = None) -> int:
        async def work(session: AsyncSession) -> int:
            snapshot = await queries.begin_turn(session, key=key, text="hello", limit=10, now=NOW)
            if error is not None:
                raise error
            return snapshot.turn_id

        return await database.run(work, brief=True)

    async def test_it_commits_or_rolls_back(self, database: Database) -> None:
        key = DialogKey(1, 2)
        with pytest.raises(ZeroDivisionError):
            await self.begin(database, key, error=ZeroDivisionError())
        turn_id = await self.begin(database, key)
        assert await database.run(
            lambda session: queries.finish_turn(session, key=key, turn_id=turn_id, result=DONE, now=NOW), brief=True
        )
        async with database.read() as session:
            assert len(await queries.history(session, key=key, limit=10)) == 1

    async def test_many_together_with_ordinary_transactions(self, database: Database) -> None:
        keys = [DialogKey(1, number) for number in range(40)]
        await asyncio.gather(
            *(self.begin(database, key) for key in keys), *(chat(database, key, "hi", think=0.0) for key in keys)
        )
        assert checked_out(database) == 0

    async def test_waiting_for_the_lock_does_not_block_the_loop(self, sqlite_url: str) -> None:
        """Another process holds the write lock: BEGIN waits in the connection's thread, not on the event loop."""
        database = Database(sqlite_url, busy_timeout=2.0)
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        stop = asyncio.Event()
        lags = asyncio.create_task(loop_lags(stop))
        waiting = asyncio.create_task(self.begin(database, DialogKey(1, 2)))
        await asyncio.sleep(0.7)
        assert not waiting.done()
        other.execute("COMMIT")
        other.close()
        assert await waiting > 0
        stop.set()
        assert max(await lags) < 0.5
        await database.close()


class TestManyChats:
    @pytest.mark.parametrize("chats", [150, pytest.param(500, marks=pytest.mark.long)])
    async def test_many_chats_over_50_guilds(self, database: Database, chats: int) -> None:
        keys = [DialogKey(1000 + number % 50, number) for number in range(chats)]
        locks = {key: asyncio.Lock() for key in keys}
        rng = random.Random(5)

        async def member(key: DialogKey) -> None:
            async with locks[key]:
                await chat(database, key, "question", think=rng.uniform(0.05, 0.5))

        await asyncio.gather(*(member(key) for key in keys))
        assert checked_out(database) == 0
        async with database.read() as session:
            for key in keys:
                assert [pair.user for pair in await queries.history(session, key=key, limit=10)] == ["question"]

    async def test_fault_11_readers_and_writers_of_two_processes(self, database: Database) -> None:
        async def task(user: int) -> None:
            key = DialogKey(100, user)
            for number in range(12):
                async with database.write() as session:
                    snapshot = await queries.begin_turn(session, key=key, text=f"{number}", limit=10, now=NOW)
                    assert len(snapshot.history) == min(number, 10)
                    await queries.finish_turn(session, key=key, turn_id=snapshot.turn_id, result=DONE, now=NOW)
                async with database.read() as session:
                    assert len(await queries.history(session, key=key, limit=99)) == number + 1

        other = Database(database.url)  # to SQLite, the same as another process

        async def outsider() -> None:
            for number in range(30):
                async with other.write() as session:
                    await queries.begin_turn(session, key=DialogKey(101, 1), text=f"{number}", limit=10, now=NOW)

        await asyncio.gather(outsider(), *(task(user) for user in range(8)))
        await other.close()

    async def test_fault_05_the_second_turn_sees_the_first(self, database: Database) -> None:
        key, lock = DialogKey(100, 7), asyncio.Lock()
        histories: list[int] = []

        async def one() -> None:
            async with lock:
                async with database.write() as session:
                    snapshot = await queries.begin_turn(session, key=key, text="hi", limit=10, now=NOW)
                histories.append(len(snapshot.history))
                async with database.write() as session:
                    await queries.finish_turn(session, key=key, turn_id=snapshot.turn_id, result=DONE, now=NOW)

        await asyncio.gather(one(), one())
        assert histories == [0, 1]


class TestCancellation:
    async def test_fault_13_cancelled_tasks_leak_no_connection(self, database: Database) -> None:
        rng = random.Random(3)
        await chat(database, DialogKey(100, 1), "warm up", think=0)
        for number in range(100):
            task = asyncio.create_task(chat(database, DialogKey(100, number), "hi", think=0.002))
            await asyncio.sleep(rng.random() * 0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert checked_out(database) == 0
        await chat(database, DialogKey(100, 1), "still works", think=0)
        async with database.read() as session:
            assert await inspection.integrity_problems(session) == ()


class TestTwoProcesses:
    async def test_fault_07_an_interaction_is_answered_once(self, database: Database) -> None:
        """Two bots on one database get the same interactions at the same moment."""
        other = Database(database.url)
        taken: list[int] = []

        async def take(bot: Database, interaction: int) -> None:
            try:
                await chat(bot, DialogKey(100, interaction % 5), "hi", think=0.001, interaction=interaction)
            except DuplicateInteraction:
                return
            taken.append(interaction)

        await asyncio.gather(*(take(bot, number) for number in range(1, 41) for bot in (database, other)))
        assert sorted(taken) == list(range(1, 41))
        async with database.read() as session:
            assert (await inspection.totals(session))["done_turns"] == 40
        await other.close()

    async def test_fault_08_a_replay_is_refused_even_after_the_turn_was_deleted(self, database: Database) -> None:
        key = DialogKey(100, 7)
        await chat(database, key, "hi", think=0, interaction=99)
        async with database.write() as session:
            assert await queries.forget_last(session, key=key, count=1) == 1
        with pytest.raises(DuplicateInteraction):
            await chat(database, key, "hi", think=0, interaction=99)

    async def test_a_dialog_is_opened_once(self, database: Database) -> None:
        other = Database(database.url)
        key = DialogKey(100, 7)
        await asyncio.gather(*(chat(bot, key, "hi", think=0) for bot in (database, other) for _ in range(5)))
        async with database.read() as session:
            assert len(await inspection.dialog_lines(session)) == 1
        await other.close()
