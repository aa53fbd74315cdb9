"""An aiosqlite connection that survives task cancellation and crosses threads less often. For SQLAlchemy only.

Cancellation: aiosqlite runs each statement in a thread of its own, and cancelling the task that awaits a statement does
not stop it there. The connection would go back to the pool in the middle of a transaction, holding the write lock.
Here a cancelled task waits until its statement has ended (milliseconds); then the transaction rolls back as after any
other exception.

Speed: a round trip to the driver's thread costs more than a small query. Each statement is executed, fetched and closed
in one round trip instead of four. A `brief` transaction (see `Database.run`) goes further: once it holds the write
lock, its statements run in the event loop's thread. So does BEGIN if it need not wait for the lock. COMMIT, which waits
for the disk, never does; but that of a transaction that only reads, which waits for nothing, always does.
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


async def run_to_completion(work: Awaitable[T]) -> T:
    """Await `work` to its end even if this task is cancelled meanwhile; the cancellation is raised afterwards."""
    inner = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not inner.done():
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: S112 the result is read below
            continue
    if cancelled is not None:
        if not inner.cancelled():
            inner.exception()  # marks the exception as retrieved: asyncio logs those that are not
        raise cancelled
    return inner.result()


class BufferedCursor:
    """The part of an async cursor that SQLAlchemy uses. `execute` fetches every row and closes the driver's cursor."""

    def __init__(self, connection: CancelSafeConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> BufferedCursor:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> BufferedCursor:
        """Run one statement, in the event loop's thread if the connection is `inline`."""
        if self._connection.inline:
            self._run(sqlite3.Cursor.execute, sql, parameters)
            return self
        await self._connection.run_in_thread(partial(self._run, sqlite3.Cursor.execute, sql, parameters))
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> BufferedCursor:
        """Run one statement for many rows, always in the driver's thread."""
        await self._connection.run_in_thread(partial(self._run, sqlite3.Cursor.executemany, sql, parameters))
        return self

    async def fetchall(self) -> list[Any]:
        """Return the rows of the last statement, once."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Drop the rows that were not fetched."""
        self._rows = []

    def _run(self, execute: Callable[..., sqlite3.Cursor], sql: str, parameters: Iterable[Any]) -> None:
        with contextlib.closing(self._connection.raw.cursor()) as cursor:
            execute(cursor, sql, parameters)
            self.description = cursor.description
            self._rows = cursor.fetchall()
            self.rowcount = cursor.rowcount
            self.lastrowid = cursor.lastrowid


class CancelSafeConnection(aiosqlite.Connection):
    """A connection whose statements run to completion even when the task that awaits them is cancelled."""

    stopped: asyncio.Future[Any] | None = None
    """After `stop`: done when the thread has run its last job."""
    inline = False
    """Whether statements run in the event loop's thread: set for a brief transaction that holds its lock."""
    only_reads = False
    """Whether the transaction has nothing to commit."""

    def stop(self) -> asyncio.Future[Any] | None:
        """Tell the thread to end, once, and keep the future that says when it has: a second one would never be done."""
        if self.stopped is None:
            self.stopped = super().stop()
        return self.stopped

    @property
    def raw(self) -> sqlite3.Connection:
        """The standard library's connection."""
        return self._conn

    def begin_at_once(self) -> bool:
        """Begin a transaction that writes, in the event loop's thread. False if the lock must be waited for."""
        if self._connection is None:
            return False
        (timeout,) = self.raw.execute("PRAGMA busy_timeout").fetchone()
        self.raw.execute("PRAGMA busy_timeout = 0")
        try:
            self.raw.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            return False  # another error than a held lock occurs again in the driver's thread, and is raised there
        finally:
            self.raw.execute(f"PRAGMA busy_timeout = {timeout}")
        return True

    async def run_in_thread(self, function: Callable[[], T]) -> T:
        """Run `function` in the connection's thread, to its end. Raises ValueError if the connection is closed."""
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((future, function))
        return await run_to_completion(future)

    async def _execute(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self.run_in_thread(partial(fn, *args, **kwargs))

    def cursor(self) -> BufferedCursor:  # type: ignore[override]  # SQLAlchemy uses no more than this
        """Return a new cursor; opening it needs no round trip to the thread."""
        return BufferedCursor(self)

    async def commit(self) -> None:
        """Commit, in the event loop's thread if nothing was written. Roll back if that fails.

        SQLite may leave the transaction open then, with its lock, and SQLAlchemy takes it for ended.
        """
        if self.only_reads:
            self.raw.commit()
            return
        try:
            await super().commit()
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                await self.rollback()
            raise

    async def rollback(self) -> None:
        """Roll back if a transaction is open; skip the round trip to the thread if not."""
        if self.raw.in_transaction:
            await super().rollback()

    async def close(self) -> None:
        """Roll back and close. Other references to the connection cannot keep the transaction open."""
        with contextlib.suppress(sqlite3.Error, ValueError):
            await self.rollback()
        if self.stopped is None:
            await super().close()
        else:  # its thread answers nothing more
            await asyncio.wait([self.stopped])


async def connect(path: str, **options: Any) -> CancelSafeConnection:
    """Open a connection as `aiosqlite.connect` does. Its thread is a daemon, so it never keeps the process alive."""
    options["check_same_thread"] = False  # `in_transaction` and inline statements run outside the driver's thread
    connection = CancelSafeConnection(lambda: sqlite3.connect(path, **options), 64)
    connection._thread.daemon = True
    opening: asyncio.Future[aiosqlite.Connection] = asyncio.ensure_future(connection)
    try:
        await run_to_completion(opening)
    except asyncio.CancelledError:
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            await connection.close()
        raise
    except sqlite3.Error:
        # aiosqlite tells the thread to stop but does not wait for it; it would then report to a loop that may be closed
        if connection.stopped is not None:
            await run_to_completion(connection.stopped)
        raise
    return connection
