"""Whose rows are whose: the first application takes the terminal's, another one those that were given up."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from models import queries
from models.application import TERMINAL, current_application
from models.database import Database
from models.queries.application import applications, enter_application, give_up_application, started_applications
from tests.models.application_kit import FIRST, KEY, NOW, SECOND, bots, counts, fill, write


class TestWhoseRows:
    async def enter(self, database: Database, application_id: int, seconds: int = 0) -> int | None:
        at = NOW + timedelta(seconds=seconds)
        found: int | None = await write(database, enter_application, application_id=application_id, now=at)
        return found

    async def test_the_first_application_takes_what_the_terminal_has(self, database_url: str) -> None:
        async with bots(database_url, TERMINAL, FIRST, SECOND) as (terminal, first, second):
            await fill(terminal)
            before = await counts(database_url, TERMINAL)
            assert await self.enter(first, FIRST) == TERMINAL
            assert await counts(database_url, FIRST) == before
            assert set((await counts(database_url, TERMINAL)).values()) == {0}
            assert await self.enter(first, FIRST) is None
            await fill(terminal)  # from now on it has its own
            assert await self.enter(second, SECOND, 1) is None
            assert set((await counts(database_url, SECOND)).values()) == {0}
            assert await counts(database_url, TERMINAL) == before
            async with terminal.read() as session:
                assert await started_applications(session) == (FIRST, SECOND)
                assert await applications(session) == (TERMINAL, FIRST, SECOND)

    async def test_two_processes_of_the_first_application_start_at_once(self, database_url: str) -> None:
        async with bots(database_url, TERMINAL, FIRST, FIRST) as (terminal, one, other):
            await fill(terminal)
            before = await counts(database_url, TERMINAL)
            taken = await asyncio.gather(
                *(
                    bot.run(lambda session: enter_application(session, application_id=FIRST, now=NOW))
                    for bot in (one, other)
                )
            )
            assert sorted(taken, key=str) == [TERMINAL, None]
            assert await counts(database_url, FIRST) == before

    async def test_adoption_moves_the_rows_of_one_application_only(self, database_url: str) -> None:
        async with bots(database_url, FIRST, SECOND, 33) as (first, second, third):
            await self.enter(first, FIRST)
            await self.enter(second, SECOND, 1)
            await fill(first)
            await fill(second)
            before = await counts(database_url, FIRST)
            give_up = {"now": NOW}
            assert await write(first, give_up_application, application_id=FIRST, **give_up)
            assert not await write(first, give_up_application, application_id=SECOND, **give_up)
            assert await self.enter(second, SECOND, 2) is None  # it is not new here
            assert await self.enter(third, 33, 3) == FIRST
            assert await counts(database_url, 33) == before
            assert await counts(database_url, SECOND) == before
            async with third.read() as session:
                assert await started_applications(session) == (SECOND, 33)

    async def test_an_application_that_starts_again_keeps_its_rows(self, database_url: str) -> None:
        async with bots(database_url, FIRST, SECOND) as (first, second):
            await self.enter(first, FIRST)
            await fill(first)
            await write(first, give_up_application, application_id=FIRST, now=NOW)
            assert await self.enter(first, FIRST, 1) is None
            assert await self.enter(second, SECOND, 2) is None

    async def test_before_the_login_no_statement_runs(self, sqlite_url: str) -> None:
        database = Database(sqlite_url, application_id=None)
        with pytest.raises(RuntimeError, match="logged in"):
            await write(database, queries.history, key=KEY, limit=9)
        await database.close()

    async def test_each_transaction_has_the_application_of_its_database(self, sqlite_url: str) -> None:
        async with bots(sqlite_url, FIRST, SECOND) as (first, second), first.read():
            assert current_application() == FIRST
            async with second.read():
                assert current_application() == SECOND
            assert current_application() == FIRST
