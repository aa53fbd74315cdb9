"""What is left when SQLite refuses a commit, or loses its connection: no lock, no half, and the error of one alone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from models.database import Database
from models.sqlite.aiosqlite_adapter import CancelSafeConnection, connect
from models.tables import Guild
from tests.models.group_commit_kit import NOW, begin, turns, waiting


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    opened = Database(sqlite_url, busy_timeout=0.1)
    yield opened
    await opened.close()


@pytest.mark.parametrize("is_last", [False, True])
async def test_one_of_them_is_cancelled_in_the_drivers_thread(database: Database, is_last: bool) -> None:
    """SQLAlchemy then closes the connection that all share. The others are stored, and this one is not run again."""
    begun: list[asyncio.Task[Any] | None] = []

    async def insert_many(session: AsyncSession) -> None:
        begun.append(task := asyncio.current_task())
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        rows = [{"id": guild_id, "application_id": 0, "first_seen_at": NOW} for guild_id in (501, 502, 503)]
        await session.info["connection"].execute(insert(Guild), rows)

    others = [] if is_last else [begin(database, 3)]
    async with waiting(database, begin(database, 1), begin(database, 2, after=insert_many), *others) as tasks:
        pass
    assert tasks[1].cancelled()
    assert len(begun) == 1
    assert turns(database) == sorted(task.result() for task in tasks if not task.cancelled())
    async with database.read() as session:
        assert not await session.scalar(select(Guild.id).where(Guild.id > 500))


async def break_a_reference(session: AsyncSession) -> None:
    """SQLite finds it at COMMIT."""
    await session.execute(text("PRAGMA defer_foreign_keys = ON"))
    await session.execute(text("UPDATE turns SET dialog_id = 99999 WHERE application_id = 0"))


async def test_what_is_refused_at_commit_is_the_error_of_one_of_them(database: Database) -> None:
    works = [begin(database, 1), begin(database, 2, after=break_a_reference), begin(database, 3)]
    async with waiting(database, *works) as tasks:
        pass
    assert isinstance(tasks[1].exception(), IntegrityError)
    assert turns(database) == sorted([tasks[0].result(), tasks[2].result()])


async def test_a_commit_that_failed_keeps_no_lock(database: Database) -> None:
    with pytest.raises(IntegrityError):
        await begin(database, 1, after=break_a_reference)
    with sqlite3.connect(database.url.removeprefix("sqlite:///"), timeout=0) as other:
        other.execute("BEGIN IMMEDIATE")
    stored = await begin(database, 2)
    assert turns(database) == [stored]


async def test_a_connection_that_was_closed_is_opened_anew(database: Database) -> None:
    async with database.read() as session:  # keeps the log open
        await session.execute(select(Guild))
    for _ in range(2):
        async with database.engines[0].connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, CancelSafeConnection)
        await driver.close()
        assert await begin(database, 1)
    assert len(turns(database)) == 2


async def test_a_connection_that_is_being_stopped_can_be_closed(sqlite_url: str) -> None:
    """As when a task is cancelled again while SQLAlchemy closes the connection of its first cancellation."""
    connection = await connect(sqlite_url.removeprefix("sqlite:///"))
    connection.stop()
    async with asyncio.timeout(10):
        await connection.close()
