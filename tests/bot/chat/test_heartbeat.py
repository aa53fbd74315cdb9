"""Which processes count as dead: by the database's clock, never after a gap of one's own, never a living neighbour.

The database's clock is set forward instead of waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bot.chat.heartbeat import Heartbeat
from models import queries
from models.database import Database
from models.queries.replies import processes, recovery, unfinished_deliveries
from models.types import DialogKey, Place, TurnResult

KEY = DialogKey(1, 7)
INTERVAL = 16.0  # seconds: a process counts as alive for 64 s, and a gap is more than 32 s
LEASE = 4 * INTERVAL
STEP = INTERVAL / 2

MakeProcess = Callable[[str], Database]


@pytest.fixture
async def process_of(database_url: str) -> AsyncIterator[MakeProcess]:
    """Makes the Database of a process on a host of this name; "" is this host."""
    opened: list[Database] = []

    def make(host: str) -> Database:
        database = Database(database_url)
        if host:
            database.owner = f"{host}/1/1/{len(opened)}"
        opened.append(database)
        return database

    yield make
    for database in opened:
        await database.close()


class Clock:
    """The clock of the database, which still runs, set forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._forward = timedelta()
        self._real = processes._database_time
        monkeypatch.setattr(processes, "_database_time", self._now)

    async def _now(self, session: AsyncSession) -> datetime:
        return await self._real(session) + self._forward

    def advance(self, seconds: float) -> None:
        self._forward += timedelta(seconds=seconds)

    async def keep_beating(self, seconds: float, *hearts: Heartbeat) -> None:
        for _ in range(round(seconds / STEP)):
            await asyncio.gather(*(heart.beat() for heart in hearts))
            self.advance(STEP)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def begin(database: Database, interaction: int = 5) -> int:
    turn = await database.run(
        lambda session: queries.begin_turn(
            session,
            key=KEY,
            text="hi",
            limit=10,
            interaction_id=interaction,
            place=Place(KEY.guild_id, 5, KEY.user_id, interaction, application_id=1, reply_token="token"),
            now=datetime.now(UTC),
        )
    )
    return turn.turn_id


async def end_dead(database: Database) -> int:
    return await database.run(lambda session: recovery.interrupt_dead_turns(session, now=datetime.now(UTC)))


async def test_attack_a_dead_process_of_another_host_is_found_within_its_lease(
    clock: Clock, process_of: MakeProcess
) -> None:
    mine, other = process_of("here"), process_of("elsewhere")
    heart, its_heart = Heartbeat(mine, INTERVAL), Heartbeat(other, INTERVAL)
    await begin(other)
    await clock.keep_beating(LEASE + STEP, heart, its_heart)
    assert await heart.find_lost() == 0
    assert await end_dead(mine) == 0
    await clock.keep_beating(LEASE, heart)  # it does not beat any more
    assert await heart.find_lost() == 1
    assert await heart.find_lost() == 0
    async with mine.read() as session:
        waiting = await unfinished_deliveries.unfinished_deliveries(session, now=datetime.now(UTC))
    assert len(waiting) == 1
    assert await end_dead(mine) == 1


async def test_attack_a_process_that_was_taken_for_dead_keeps_its_turn(clock: Clock, process_of: MakeProcess) -> None:
    mine, other = process_of("here"), process_of("elsewhere")
    heart, its_heart = Heartbeat(mine, INTERVAL), Heartbeat(other, INTERVAL)
    failed, finished = await begin(other, 5), await begin(other, 6)
    await its_heart.beat()
    await clock.keep_beating(LEASE + STEP, heart)
    assert await heart.find_lost() == 1
    assert await end_dead(mine) == 2
    await its_heart.beat()
    late = await begin(other, 7)
    assert await end_dead(mine) == 0, "it lives again"
    result = TurnResult("ho", 1, 1, "stop", 1, 1)
    now = datetime.now(UTC)
    async with mine.write() as session:  # the turn of another process
        assert not await queries.finish_turn(session, key=KEY, turn_id=finished, result=result, now=now)
    for _ in range(2):  # as after a lost connection
        async with other.write() as session:
            assert await queries.finish_turn(session, key=KEY, turn_id=finished, result=result, now=now)
    async with other.write() as session:
        await queries.fail_turn(session, key=KEY, turn_id=failed, status="failed", error_id="e1", now=now)
    async with mine.read() as session:
        statement = "SELECT turns.id, status, reply_token FROM turns JOIN deliveries ON turn_id = turns.id ORDER BY 1"
        assert [tuple(row) for row in await session.execute(text(statement))] == [
            (failed, "failed", None), (finished, "done", "token"), (late, "pending", "token"),
        ]  # fmt: skip
        assert [pair.reply for pair in await queries.history(session, key=KEY, limit=9)] == ["ho"]


async def test_attack_after_an_outage_nobody_is_judged_for_a_lease(clock: Clock, process_of: MakeProcess) -> None:
    mine, other = process_of("here"), process_of("elsewhere")
    heart, its_heart = Heartbeat(mine, INTERVAL), Heartbeat(other, INTERVAL)
    await clock.keep_beating(LEASE + STEP, heart, its_heart)
    clock.advance(LEASE + STEP)  # the database is away: no process can beat
    for _ in range(4):  # it is back, and the other one is slower to notice
        await heart.beat()
        assert await heart.find_lost() == 0
        clock.advance(STEP)
    await its_heart.beat()
    await clock.keep_beating(LEASE / 2, heart)
    assert await heart.find_lost() == 0


async def test_attack_a_new_process_judges_nobody_before_a_lease(clock: Clock, process_of: MakeProcess) -> None:
    mine, other = process_of("here"), process_of("elsewhere")
    await Heartbeat(other, INTERVAL).beat()
    clock.advance(LEASE + STEP)
    heart = Heartbeat(mine, INTERVAL)
    assert await heart.find_lost() == 0
    await heart.beat()
    assert await heart.find_lost() == 0
    await clock.keep_beating(LEASE + STEP, heart)
    assert await heart.find_lost() == 1


@pytest.mark.parametrize("hours", [-2, 2])
async def test_attack_the_clock_of_the_host_does_not_matter(clock: Clock, process_of: MakeProcess, hours: int) -> None:
    mine, other = process_of("here"), process_of("elsewhere")
    heart, its_heart = Heartbeat(mine, INTERVAL), Heartbeat(other, INTERVAL)
    await clock.keep_beating(LEASE + STEP, heart, its_heart)
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=hours)):
        await heart.beat()
        assert await heart.find_lost() == 0
    await clock.keep_beating(LEASE + STEP, heart)
    assert await heart.find_lost() == 1


async def test_attack_a_living_process_of_this_host_is_never_judged_by_its_heartbeat(
    clock: Clock, process_of: MakeProcess
) -> None:
    mine, neighbour = process_of("here"), process_of("")
    await begin(neighbour)
    await Heartbeat(neighbour, INTERVAL).beat()
    heart = Heartbeat(mine, INTERVAL)
    await clock.keep_beating(LEASE * 2, heart)
    assert await heart.find_lost() == 0
    # Another host cannot see it, and marks it; this host still knows better.
    async with mine.write() as session:
        await session.execute(text("UPDATE processes SET lost_at = alive_until"))
    assert await end_dead(mine) == 0


async def test_a_process_without_a_heartbeat_is_judged_by_age_alone(clock: Clock, process_of: MakeProcess) -> None:
    mine, terminal = process_of("here"), process_of("elsewhere")
    await begin(terminal)
    await clock.keep_beating(LEASE + STEP, heart := Heartbeat(mine, INTERVAL))
    assert await heart.find_lost() == 0
    assert await end_dead(mine) == 0
    old = datetime.now(UTC) + timedelta(minutes=16)
    assert await mine.run(lambda session: recovery.interrupt_dead_turns(session, now=old)) == 1


async def test_rows_of_processes_that_ended_are_forgotten(process_of: MakeProcess) -> None:
    mine, other = process_of("here"), process_of("elsewhere")
    await Heartbeat(other, INTERVAL).beat()
    async with mine.write() as session:
        await session.execute(text("UPDATE processes SET alive_until = '2020-01-01 00:00:00'"))
    await Heartbeat(mine, INTERVAL).beat()
    async with mine.read() as session:
        assert (await session.execute(text("SELECT owner FROM processes"))).scalars().all() == [mine.owner]
