"""Who leads and who has which shard, among processes on one Postgres. Each is a `Database` with its leases here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from bot.cluster import leases as leases_module
from bot.cluster.leases import Leases, NotHeld
from models.database import Database
from models.queries.replies import processes
from tests.pooler import Pooler
from tests.postgres import Postgres

APPLICATION = 77
Start = Callable[..., Awaitable[Leases]]


@pytest.fixture
async def start(postgres_url: str) -> AsyncIterator[Start]:
    """Starts another process that looks at its leases only when `look()` is called."""
    made: list[tuple[Database, Leases]] = []

    async def start_one(num_shards: int | None = None, *, url: str = "", application: int = APPLICATION) -> Leases:
        database = Database(url or postgres_url, application_id=application)
        made.append((database, Leases(database, num_shards=num_shards, interval=3600)))
        await made[-1][1].start()
        return made[-1][1]

    yield start_one
    for database, each in made:
        await each.close()
        await database.close()


@asynccontextmanager
async def beating(leases: Leases, *, seconds: float) -> AsyncIterator[None]:
    """The process's heartbeat says that it lives for so long from now."""
    await leases._database.run(lambda session: processes.beat(session, lease=timedelta(seconds=seconds)))
    yield


async def test_one_leads_and_the_next_follows_when_it_ends(start: Start) -> None:
    first, second = await start(), await start()
    told: list[str] = []
    second.on_lead.append(lambda: told.append("second"))
    assert (first.leads, second.leads) == (True, False)
    assert await first.confirm()
    assert not await second.confirm()
    await first.close()
    await second.look()
    assert second.leads
    assert told == ["second"]


async def test_each_application_has_a_leader(start: Start) -> None:
    assert (await start()).leads
    assert (await start(application=78)).leads


async def test_with_sqlite_the_only_process_leads(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    leases = Leases(database)
    await leases.start()
    assert await leases.confirm()
    async with database.write() as session:
        await leases.fence(session)
    await leases.close()
    await database.close()


async def test_a_leader_whose_connection_is_gone_stops_before_it_acts(start: Start) -> None:
    first, second = await start(), await start()
    async with first._database.write() as session:
        await first.fence(session)  # it leads
    async with second._database.write() as session:
        await session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": first._connection.pid})
    assert first.leads, "it does not know yet"
    await asyncio.sleep(0.2)
    with pytest.raises(NotHeld):
        async with first._database.write() as session:
            await first.fence(session)
    assert not await first.confirm()
    await second.look()
    assert second.leads
    await first.look()
    assert not first.leads


async def test_a_new_leader_waits_for_the_transaction_of_the_one_before(start: Start) -> None:
    first, second = await start(), await start()
    async with first._database.write() as session:
        await first.fence(session)
        async with second._database.write() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": first._connection.pid})
        await asyncio.sleep(0.2)
        await second.look()
        assert not second.leads, "what the leader before began is not done"
    await second.look()
    assert second.leads


class TestAStoppedProcess:
    """Its connection stays open, and with it its locks: until its heartbeats are overdue."""

    async def test_loses_the_lead(self, start: Start, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(leases_module, "STOPPED_AFTER", 0.3)
        first, second = await start(4), await start(4)
        async with beating(second, seconds=60), beating(first, seconds=0.2):
            assert first.leads
            await second.look()
            assert not second.leads, "its heartbeat is not overdue"
            await asyncio.sleep(0.3)
            await second.look()  # overdue, but only just seen
            assert not second.leads
            await asyncio.sleep(0.4)
            for _ in range(3):
                await second.look()
                await asyncio.sleep(0.1)
            assert second.leads
            assert second.shards == {0, 1, 2, 3}
            # It goes on.
            lost: list[frozenset[int]] = []
            first.on_shards = lost.append
            assert not await first.confirm()
            assert first.shards == frozenset()
            assert lost == [frozenset()]

    async def test_is_left_alone_while_the_judge_itself_has_no_heartbeat(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(leases_module, "STOPPED_AFTER", 0.0)
        first, second = await start(), await start()
        async with beating(first, seconds=0.1), beating(second, seconds=0.1):
            await asyncio.sleep(0.3)  # the database was away: all are overdue
            for _ in range(3):
                await second.look()
            assert not second.leads
            assert await first.confirm()


class TestShards:
    async def look(self, *all_of_them: Leases) -> None:
        for _ in range(8):
            for each in all_of_them:
                await each.look()

    async def test_each_has_its_share_and_together_all(self, start: Start):
        made = [await start(16) for _ in range(4)]
        await self.look(*made)
        assert [len(each.shards) for each in made] == [4] * 4
        assert frozenset().union(*(each.shards for each in made)) == frozenset(range(16))

    async def test_when_one_ends_the_others_take_over_and_give_back(self, start: Start):
        made = [await start(16) for _ in range(4)]
        await self.look(*made)
        kept = made[0].shards
        await made[3].close()
        await self.look(*made[:3])
        assert frozenset().union(*(each.shards for each in made[:3])) == frozenset(range(16))
        assert kept <= made[0].shards, "nothing moves that need not"
        made[3] = await start(16)
        await self.look(*made)
        assert sorted(len(each.shards) for each in made) == [4] * 4

    async def test_a_shard_that_is_given_up_is_first_left(self, start: Start):
        first = await start(4)
        await self.look(first)
        assert first.shards == {0, 1, 2, 3}
        seen: list[frozenset[int]] = []
        first.on_shards = seen.append
        second = await start(4)
        await self.look(first, second)
        assert seen == [frozenset({0, 1})]
        assert second.shards == {2, 3}

    async def test_one_that_is_told_to_stop_gives_its_shards_at_once(self, start: Start):
        first, second = await start(4), await start(4)
        await self.look(first, second)
        await first.leave_shards()
        await self.look(first, second)
        assert second.shards == set(range(4))
        assert first.shards == frozenset()
        assert first.leads, "it leads until its cleanup has ended"

    async def test_another_number_of_shards_is_another_set(self, start: Start):
        old, new = await start(4), await start(8)
        await self.look(old, new)
        assert old.shards == set(range(4))
        assert new.shards == set(range(8))


async def test_sessions_are_opened_one_at_a_time(start: Start) -> None:
    first, second = await start(4), await start(4)
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def identify(leases: Leases, bucket: int) -> None:
        await leases.identify(bucket, 0.4)
        times.append(loop.time())

    began = loop.time()
    await asyncio.gather(identify(first, 0), identify(second, 0), identify(first, 0))
    assert times[0] - began < 0.35
    assert times[1] - times[0] > 0.35
    assert times[2] - times[1] > 0.35


async def test_behind_a_pooler(start: Start, postgres: Postgres, postgres_url: str) -> None:
    socket = Path(str(make_url(postgres.admin_url).query["host"])) / ".s.PGSQL.5432"
    async with Pooler(socket) as pooler:
        url = make_url(postgres_url).set(host="127.0.0.1", port=pooler.port, query={})
        shown = url.render_as_string(hide_password=False)
        first, second = await start(2, url=shown), await start(2, url=shown)
        for _ in range(4):
            await first.look()
            await second.look()
        assert first.leads
        assert not second.leads
        assert first.shards | second.shards == {0, 1}
        assert not first.shards & second.shards
        await first.close()
        await second.look()
        assert second.leads
        await second.close()
