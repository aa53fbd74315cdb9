"""Commits short transactions together that wait for SQLite's one connection for writing at the same time.

A transaction costs two switches of threads and a write to the disk, whatever it does; with many chats at once they
would queue for that. Here those that wait become savepoints of one transaction, in order of arrival, and each hears
that it is done once that has been committed. If the database fails one of them, or the transaction, all of it is
rolled back, and each is to be run alone. Knows no queries: what a member does is up to its task.
"""

from __future__ import annotations

import asyncio
import sqlite3
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.errors import DatabaseUnavailable
from models.sqlite.aiosqlite_adapter import run_to_completion

T = TypeVar("T")
_FAILURES = (SQLAlchemyError, sqlite3.Error)
_MAX_MEMBERS = 32
"""Others wait until these have been committed."""


def _future() -> Future[bool]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class _Member:
    """One transaction that waits."""

    may_run: Future[bool] = field(default_factory=_future)
    """Its turn has come; False: it must run alone."""
    is_over: Future[bool] = field(default_factory=_future)
    """Its statements have run, or were rolled back; False: the database failed it."""
    is_committed: Future[bool] = field(default_factory=_future)


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """What a member returned, and is committed."""

    value: T


class GroupCommit:
    """The transactions that wait for one connection.

    `slot`: held while a group runs. `check`: called before each commit; raises DatabaseUnavailable if it must not be.
    """

    def __init__(self, engine: AsyncEngine, slot: asyncio.Semaphore, check: Callable[[], None]) -> None:
        self._engine = engine
        self._slot = slot
        self._check = check
        self._waiting: list[_Member] = []
        self._connection: AsyncConnection | None = None
        self._leader: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> Committed[T] | None:
        """Run `work`, which opens a savepoint on the connection, in the next group.

        None: nothing of it is stored, and it must be run alone. What it raises beside errors of the database leaves
        the other members alone. That too is raised only once the group is committed: it may follow from what another
        member has stored, which must not be rolled back afterwards.
        """
        member = _Member()
        self._waiting.append(member)
        if self._leader is None:
            self._leader = asyncio.create_task(self._lead(), name="group-commit")
        failed = False
        try:
            if not await member.may_run or self._connection is None:
                return None
            value = await work(self._connection)
        except _FAILURES:
            failed = True
            return None
        except Exception:
            _tell([member.is_over], True)
            if await run_to_completion(member.is_committed):
                raise
            return None
        finally:
            _tell([member.is_over], not failed)
        return Committed(value) if await run_to_completion(member.is_committed) else None

    async def ended(self) -> None:
        """Wait until nobody waits any more."""
        while self._leader is not None:
            await asyncio.wait([self._leader])

    async def _lead(self) -> None:
        try:
            while self._waiting:
                async with self._slot:
                    members, self._waiting = self._waiting[:_MAX_MEMBERS], self._waiting[_MAX_MEMBERS:]
                    await self._run_together(members)
        finally:  # nobody is left waiting, unless it was cancelled or has met a bug
            left, self._waiting, self._leader = self._waiting, [], None
            _tell([member.may_run for member in left], False)

    async def _run_together(self, members: list[_Member]) -> None:
        is_committed = False
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(brief=True)
                transaction = await connection.begin()
                self._connection = connection
                if await _all_over(members):
                    self._check()
                    await transaction.commit()
                    is_committed = True
        except (*_FAILURES, DatabaseUnavailable):
            pass  # each member meets the error again, alone
        finally:
            self._connection = None
            _tell([member.may_run for member in members], False)
            _tell([member.is_committed for member in members], is_committed)


def _tell(futures: Iterable[Future[bool]], result: bool) -> None:
    """Set those that are not set or cancelled yet."""
    for future in futures:
        if not future.done():
            future.set_result(result)


async def _all_over(members: list[_Member]) -> bool:
    """Give each member its turn, one after the other. False as soon as the database has failed one."""
    for member in members:
        if member.may_run.done():  # cancelled
            continue
        member.may_run.set_result(True)
        if not await member.is_over:
            return False
    return True
