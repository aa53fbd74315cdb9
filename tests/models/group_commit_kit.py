"""What the tests of group commits share: turns that are begun in one, and what is stored of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from models import queries
from models.database import Database
from models.types import DialogKey

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
After = Callable[[AsyncSession], Awaitable[object]]


async def begin(database: Database, user: int, *, words: str = "hello", after: After | None = None) -> int:
    """Begin a turn of this user, in a transaction that does something more after it."""

    async def work(session: AsyncSession) -> int:
        turn = await queries.begin_turn(session, key=DialogKey(1, user), text=words, limit=10, now=NOW)
        if after is not None:
            await after(session)
        return turn.turn_id

    return await database.run(work, brief=True)


@asynccontextmanager
async def waiting(database: Database, *work: Awaitable[int]) -> AsyncIterator[Sequence[asyncio.Task[int]]]:
    """These transactions wait for the writer while the block runs, and have ended after it."""
    async with database.write():
        tasks = [asyncio.ensure_future(each) for each in work]
        await asyncio.sleep(0)
        yield tasks
    async with asyncio.timeout(10):
        await asyncio.wait(tasks)


def turns(database: Database) -> list[int]:
    """The ids of all stored turns."""
    with sqlite3.connect(database.url.removeprefix("sqlite:///")) as file:
        return [row[0] for row in file.execute("SELECT id FROM turns ORDER BY id")]
