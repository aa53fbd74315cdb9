"""aiosqlite with two habits changed, for SQLAlchemy alone.

Patience: aiosqlite runs each statement in a thread, and cancelling the task that waits for it stops nothing there. The
connection would be given up in the middle of a transaction, holding the write lock. So a cancellation waits for the
statement, a matter of milliseconds, and the transaction is rolled back as after any other exception.

Haste: a statement is executed, read out and closed in one visit to the thread instead of four, since the visits cost
more than the queries. Nothing is left open that could keep a lock alive. In a brief transaction, once it has its lock,
statements do not visit the thread at all; its begin and its commit, which may wait for others and for the disk, do.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import aiosqlite

T = TypeVar("T")


async def uninterrupted(work: Awaitable[T]) -> T:
    """Awaits to the end whatever happens to this task; a cancellation is raised afterwards."""
    inner = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not inner.done():
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: S112 the result is looked at below
            continue
    if cancelled is not None:
        if not inner.cancelled():
            inner.exception()  # looked at, so that nobody warns of it
        raise cancelled
    return inner.result()


class UninterruptedCursor:
    """What SQLAlchemy's adapter needs of an async cursor. Its rows are all there once `execute` returns."""

    def __init__(self, connection: UninterruptedConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> UninterruptedCursor:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> UninterruptedCursor:
        if self._connection.brief:
            self._run(sqlite3.Cursor.execute, sql, parameters)
            return self
        await self._connection.visit(partial(self._run, sqlite3.Cursor.execute, sql, parameters))
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> UninterruptedCursor:
        await self._connection.visit(partial(self._run, sqlite3.Cursor.executemany, sql, parameters))
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []

    def _run(self, act: Callable[..., sqlite3.Cursor], sql: str, parameters: Iterable[Any]) -> None:
        with contextlib.closing(self._connection.sync.cursor()) as cursor:
            act(cursor, sql, parameters)
            self.description = cursor.description
            self._rows = cursor.fetchall()
            self.rowcount = cursor.rowcount
            self.lastrowid = cursor.lastrowid


class UninterruptedConnection(aiosqlite.Connection):
    """A connection whose statements are never abandoned."""

    stopped: asyncio.Future[Any] | None = None
    """Done when the thread has taken its last order, once it was told to stop."""
    brief = False
    """The running transaction has its lock and only statements of microseconds."""

    def stop(self) -> asyncio.Future[Any] | None:
        self.stopped = super().stop()
        return self.stopped

    @property
    def sync(self) -> sqlite3.Connection:
        return self._conn

    async def visit(self, act: Callable[[], T]) -> T:
        """Runs something in the connection's thread, to its end."""
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((future, act))
        return await uninterrupted(future)

    async def _execute(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self.visit(partial(fn, *args, **kwargs))

    def cursor(self) -> UninterruptedCursor:  # type: ignore[override]  # SQLAlchemy needs no more of it
        return UninterruptedCursor(self)

    async def rollback(self) -> None:
        if self.sync.in_transaction:
            await super().rollback()

    async def close(self) -> None:
        # A transaction must not outlive its connection, whoever still holds a reference to it.
        with contextlib.suppress(sqlite3.Error, ValueError):
            await self.rollback()
        await super().close()


async def connect(path: str, **options: Any) -> UninterruptedConnection:
    """What aiosqlite.connect does, with a patient connection, and a thread that keeps no process alive."""
    options["check_same_thread"] = False  # only `in_transaction` is read from another thread
    connection = UninterruptedConnection(lambda: sqlite3.connect(path, **options), 64)
    connection._thread.daemon = True
    opening: asyncio.Future[aiosqlite.Connection] = asyncio.ensure_future(connection)
    try:
        await uninterrupted(opening)
    except asyncio.CancelledError:
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            await connection.close()
        raise
    except sqlite3.Error:
        # aiosqlite tells the thread to stop and does not wait; the thread would answer a loop that may be gone.
        if connection.stopped is not None:
            await uninterrupted(connection.stopped)
        raise
    return connection
