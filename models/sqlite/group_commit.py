"""Commits short transactions together that wait for SQLite's one connection for writing at the same time.

Each transaction costs two switches of threads and a write to the disk, however little it does. So those that wait
become savepoints of one transaction, in order of arrival, and none hears of success before that has been committed. If
the database fails a savepoint or the commit, all is rolled back, and each runs alone. Knows no queries.
"""

from __future__ import annotations

import asyncio
import sqlite3
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.errors import DatabaseUnavailable
from models.sqlite.aiosqlite_adapter import CancelSafeConnection, run_to_completion

T = TypeVar("T")
_FAILURES = (SQLAlchemyError, sqlite3.Error)
_MAX_GROUP_SIZE = 32
"""Further transactions wait for the next group."""


def _future() -> Future[bool]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class _Transaction:
    """One transaction that waits."""

    may_run: Future[bool] = field(default_factory=_future)
    """Its turn has come; False: it must run alone."""
    is_over: Future[bool] = field(default_factory=_future)
    """Its statements have run, or were rolled back; False: the database failed it."""
    is_committed: Future[bool] = field(default_factory=_future)


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """The result of a transaction that has been committed."""

    value: T


class SavepointLost(Exception):
    """A savepoint could not be taken back: the group's transaction is gone. `cause`: why it should have been."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class GroupCommit:
    """The transactions that wait for one connection.

    `slot`: held while a group runs. `check`: called before each commit; raises DatabaseUnavailable if it must not be.
    """

    def __init__(self, engine: AsyncEngine, slot: asyncio.Semaphore, check: Callable[[], None]) -> None:
        self._engine = engine
        self._slot = slot
        self._check = check
        self._waiting: list[_Transaction] = []
        self._connection: AsyncConnection | None = None
        self._leader: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> Committed[T] | None:
        """Run `work`, which opens a savepoint on the connection, in the next group.

        None: nothing of it is stored, and it must be run alone. Raises what `work` raises, except errors of the
        database; `work` has then rolled its savepoint back, and the rest of the group is committed. It raises after
        that commit: the error may follow from what another transaction of the group has stored.
        """
        own = _Transaction()
        self._waiting.append(own)
        if self._leader is None:
            self._leader = asyncio.create_task(self._lead(), name="group-commit")
        failed = False
        try:
            if not await own.may_run or self._connection is None:
                return None
            value = await work(self._connection)
        except _FAILURES:
            failed = True
            return None
        except SavepointLost as lost:
            failed = True
            if isinstance(lost.cause, Exception):
                return None
            raise lost.cause from None  # cancelled: it must not be run again
        except Exception:
            _tell([own.is_over], True)
            if await run_to_completion(own.is_committed):
                raise
            return None
        finally:
            _tell([own.is_over], not failed)
        return Committed(value) if await run_to_completion(own.is_committed) else None

    async def ended(self) -> None:
        """Wait until no transaction waits any more."""
        while self._leader is not None:
            await asyncio.wait([self._leader])

    async def _lead(self) -> None:
        try:
            while self._waiting:
                async with self._slot:
                    group, self._waiting = self._waiting[:_MAX_GROUP_SIZE], self._waiting[_MAX_GROUP_SIZE:]
                    await self._run_together(group)
        finally:  # none is left waiting, unless this was cancelled or has met a bug
            left, self._waiting, self._leader = self._waiting, [], None
            _tell([each.may_run for each in left], False)

    async def _run_together(self, group: list[_Transaction]) -> None:
        is_committed = False
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(brief=True)
                shared = await connection.begin()
                self._connection = connection
                if await _all_over(group):
                    self._check()
                    await shared.commit()
                    is_committed = True
        except (*_FAILURES, DatabaseUnavailable):
            pass  # each meets the error again, alone
        finally:
            self._connection = None
            _tell([each.may_run for each in group], False)
            _tell([each.is_committed for each in group], is_committed)


@contextmanager
def savepoint(connection: AsyncConnection) -> Iterator[None]:
    """What the block does is taken back if it raises, unless the database failed it: then all is rolled back.

    Raises SavepointLost instead if it cannot be taken back alone.
    On the driver's connection: SQLAlchemy takes ten times as long for a statement as SQLite for this one.
    """
    driver = connection.sync_connection and connection.sync_connection.connection.driver_connection
    if not isinstance(driver, CancelSafeConnection):
        raise TypeError("a savepoint needs an open connection to SQLite")
    driver.raw.execute("SAVEPOINT grouped")
    try:
        yield
    except _FAILURES:
        raise
    except BaseException as error:
        try:
            driver.raw.execute("ROLLBACK TO grouped")
            driver.raw.execute("RELEASE grouped")
        # ValueError: the connection is closed, as a statement was cancelled in the driver's thread.
        except (sqlite3.Error, ValueError):
            raise SavepointLost(error) from error
        raise
    driver.raw.execute("RELEASE grouped")


def _tell(futures: Iterable[Future[bool]], result: bool) -> None:
    """Set those that are not set or cancelled yet."""
    for future in futures:
        if not future.done():
            future.set_result(result)


async def _all_over(group: list[_Transaction]) -> bool:
    """Give each its turn, one after the other. False as soon as the database has failed one."""
    for each in group:
        if each.may_run.done():  # cancelled
            continue
        each.may_run.set_result(True)
        if not await each.is_over:
            return False
    return True
