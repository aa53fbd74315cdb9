"""Short transactions that wait for SQLite's writer together: one commit for all, and each fails alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from models import queries
from models.database import Database
from models.errors import DatabaseUnavailable, DuplicateInteraction
from models.sqlite.aiosqlite_adapter import CancelSafeConnection
from models.tables import Guild
from models.types import DialogKey
from tests.models.group_commit_kit import NOW, begin, turns, waiting


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    opened = Database(sqlite_url, busy_timeout=0.1)
    yield opened
    await opened.close()


async def test_those_that_wait_are_committed_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(database, 0)
    commits: list[bool] = []
    commit = CancelSafeConnection.commit

    async def counted(connection: CancelSafeConnection) -> None:
        await commit(connection)
        commits.append(any(task.done() for task in tasks))

    async with waiting(database, *(begin(database, user) for user in range(1, 6))) as tasks:
        monkeypatch.setattr(CancelSafeConnection, "commit", counted)
    assert commits == [False, False]  # of the block and of the group; none was told before
    assert turns(database) == sorted([1, *(task.result() for task in tasks)])


async def test_a_refusal_concerns_one_of_them(database: Database) -> None:
    async def refuse(session: AsyncSession) -> None:
        raise DuplicateInteraction(7)

    async with waiting(database, begin(database, 1), begin(database, 2, after=refuse), begin(database, 3)) as tasks:
        pass
    assert isinstance(tasks[1].exception(), DuplicateInteraction)
    assert turns(database) == [tasks[0].result(), tasks[2].result()]


async def test_objects_of_a_session_are_stored_or_taken_back_as_well(database: Database) -> None:
    async def add(session: AsyncSession) -> None:
        session.add(Guild(id=77, application_id=0, first_seen_at=NOW))

    async def add_and_refuse(session: AsyncSession) -> None:
        session.add(Guild(id=78, application_id=0, first_seen_at=NOW))
        await session.flush()
        raise DuplicateInteraction(7)

    works = [begin(database, user, after=after) for user, after in enumerate((add_and_refuse, add, None), start=1)]
    async with waiting(database, *works) as tasks:
        pass
    assert isinstance(tasks[0].exception(), DuplicateInteraction)
    assert turns(database) == [tasks[1].result(), tasks[2].result()]
    async with database.read() as session:
        assert set(await session.scalars(select(Guild.id))) == {1, 77}


async def test_a_refusal_does_not_rest_on_what_was_rolled_back(database: Database) -> None:
    """The second one finds a turn that the third one's error then takes back, and that is never stored."""

    async def ask(session: AsyncSession) -> int:
        key = DialogKey(1, 1)
        return (await queries.begin_turn(session, key=key, text="hi", limit=10, interaction_id=5, now=NOW)).turn_id

    async def ask_once(session: AsyncSession) -> int:
        if session.info["attempt"] > 1:
            raise LookupError
        return await ask(session)

    async def fail(session: AsyncSession) -> None:
        await session.execute(text("SELECT * FROM no_such_table"))

    first, second = database.run(ask_once, brief=True), database.run(ask, brief=True)
    async with waiting(database, first, second, begin(database, 2, after=fail)) as tasks:
        pass
    assert isinstance(tasks[0].exception(), LookupError)
    assert turns(database) == [tasks[1].result()]


async def test_closing_waits_for_more_than_one_group(database: Database) -> None:
    async with waiting(database, *(begin(database, user) for user in range(1, 41))) as tasks:
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0)
    await closing
    assert turns(database) == sorted(task.result() for task in tasks)


async def test_what_the_database_refuses_is_the_error_of_one_of_them(database: Database) -> None:
    async def fail(session: AsyncSession) -> None:
        await session.execute(text("SELECT * FROM no_such_table"))

    async with waiting(database, begin(database, 1), begin(database, 2, after=fail), begin(database, 3)) as tasks:
        pass
    assert "no_such_table" in str(tasks[1].exception())
    assert turns(database) == sorted([tasks[0].result(), tasks[2].result()])


@pytest.mark.parametrize("begun", [False, True])
async def test_one_of_them_is_cancelled(database: Database, begun: bool) -> None:
    in_its_turn = asyncio.Event()

    async def hang(session: AsyncSession) -> None:
        in_its_turn.set()
        await asyncio.sleep(30)

    async with waiting(database, begin(database, 1), begin(database, 2, after=hang), begin(database, 3)) as tasks:
        if not begun:
            tasks[1].cancel()
        cancelling = asyncio.create_task(cancelled(tasks[1], in_its_turn)) if begun else None
    assert cancelling is None or await cancelling
    assert tasks[1].cancelled()
    assert turns(database) == [tasks[0].result(), tasks[2].result()]
    assert await begin(database, 4) > 0  # the connection is free


async def test_a_group_that_is_cancelled_fails_nobody(database: Database) -> None:
    in_its_turn, go_on = asyncio.Event(), asyncio.Event()

    async def hang(session: AsyncSession) -> None:
        in_its_turn.set()
        await go_on.wait()

    async with waiting(database, begin(database, 1, after=hang), begin(database, 2)) as tasks:
        leader = next(task for task in asyncio.all_tasks() if task.get_name() == "group-commit")
        cancelling = asyncio.create_task(cancelled(leader, in_its_turn))
        cancelling.add_done_callback(lambda _: go_on.set())
    assert await cancelling
    assert turns(database) == sorted(task.result() for task in tasks)


async def cancelled(task: asyncio.Task[Any], when: asyncio.Event) -> bool:
    await when.wait()
    return task.cancel()


async def test_a_full_file_stores_what_it_said_it_stored(database: Database) -> None:
    await begin(database, 0)

    async def limit(session: AsyncSession) -> None:
        pages = await session.scalar(text("PRAGMA page_count"))
        await session.execute(text(f"PRAGMA max_page_count = {pages + 40}"))

    await begin(database, 0, after=limit)
    async with waiting(database, *(begin(database, user, words="x" * 50_000) for user in range(1, 9))) as tasks:
        pass
    stored = [task.result() for task in tasks if task.exception() is None]
    refused = [task.exception() for task in tasks if task.exception() is not None]
    assert stored
    assert refused
    assert {type(error) for error in refused} == {DatabaseUnavailable}
    assert turns(database)[2:] == sorted(stored)


async def test_a_file_that_was_deleted_stores_nothing(database: Database) -> None:
    await begin(database, 0)
    async with waiting(database, begin(database, 1), begin(database, 2)) as tasks:
        pass
    assert all(task.exception() is None for task in tasks)
    os.unlink(database.url.removeprefix("sqlite:///"))
    tasks = [asyncio.create_task(begin(database, user)) for user in (3, 4, 5)]
    await asyncio.wait(tasks)
    assert {type(task.exception()) for task in tasks} == {DatabaseUnavailable}
