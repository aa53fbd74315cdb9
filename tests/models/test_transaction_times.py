"""What a database tells of its transactions: how long they wait and take, and which ones it failed."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from models.database import Database
from models.errors import DatabaseUnavailable
from models.transaction_times import TransactionKind


class Times:
    """What was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[TransactionKind, float, float, bool]] = []

    def __call__(self, kind: TransactionKind, waited: float, seconds: float, failed: bool) -> None:
        self.seen.append((kind, waited, seconds, failed))

    @property
    def kinds(self) -> list[tuple[str, bool]]:
        return [(kind, failed) for kind, _, _, failed in self.seen]


async def test_reads_writes_and_waits_are_told(database_url: str) -> None:
    times = Times()
    database = Database(database_url, on_transaction=times)

    async def hold(seconds: float) -> None:
        async with database.write() as session:
            await session.execute(text("SELECT 1"))
            await asyncio.sleep(seconds)

    async with database.read() as session:
        await session.execute(text("SELECT 1"))
    await database.run(lambda session: session.execute(text("SELECT 1")), brief=True)
    writers = 3 if database.is_sqlite else 1
    await asyncio.gather(*(hold(0.1) for _ in range(writers)))
    await database.close()
    assert times.kinds == [("read", False), *[("write", False)] * (1 + writers)]
    assert all(0 <= waited < 5 and 0 < seconds < 5 for _, waited, seconds, _ in times.seen)
    assert all(seconds >= 0.09 for _, _, seconds, _ in times.seen[2:])
    if database.is_sqlite:  # one writer: the others wait for it
        assert [round(waited, 1) >= 0.1 * place for place, (_, waited, _, _) in enumerate(times.seen[2:])] == [True] * 3


async def test_only_what_the_database_refuses_counts_as_failed(database_url: str) -> None:
    times = Times()
    database = Database(database_url, on_transaction=times)
    for error in (LookupError, DatabaseUnavailable):
        with pytest.raises(error):
            await _raise(database, error("not of the database"))
    with pytest.raises(Exception, match="no_such_table"):
        await database.run(lambda session: session.execute(text("SELECT * FROM no_such_table")))
    await database.close()
    assert times.kinds == [("write", False), ("write", False), ("write", True)]


async def test_a_transaction_that_is_cancelled_while_it_waits_is_none(sqlite_url: str) -> None:
    times = Times()
    database = Database(sqlite_url, on_transaction=times)
    async with database.write():
        waiting = asyncio.create_task(database.run(lambda session: session.execute(text("SELECT 1"))))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with database.write():
        pass  # the slot is free
    await database.close()
    assert times.kinds == [("write", False)] * 2


async def _raise(database: Database, error: Exception) -> None:
    async with database.write():
        raise error
