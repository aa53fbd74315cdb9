"""SQLite statements that a cancelled task lets finish.

aiosqlite runs each statement in a thread, and cancelling the task that waits for it stops nothing there: the connection
would be given up in the middle of a transaction, holding the write lock. So the cancellation waits for the statement,
which is a matter of milliseconds, and the transaction is rolled back as after any other exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiosqlite

T = TypeVar("T")


async def uninterrupted(work: Awaitable[T]) -> T:
    """Awaits to the end whatever happens to this task; a cancellation is raised afterwards."""
    inner = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not inner.done():
        try:
            await asyncio.wait([inner])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not inner.cancelled():
            inner.exception()  # looked at, so that nobody warns of it
        raise cancelled
    return inner.result()


class PatientConnection(aiosqlite.Connection):
    """A connection whose statements are never abandoned."""

    async def _execute(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        parent: Callable[..., Awaitable[T]] = super()._execute
        return await uninterrupted(parent(fn, *args, **kwargs))

    async def close(self) -> None:
        # A cursor that was not read to its end keeps a closed connection, and its write lock, alive until it is
        # collected. Rolling back first lets go of the lock now.
        with contextlib.suppress(sqlite3.Error, ValueError):
            await self.rollback()
        await super().close()


async def connect(path: str, **options: Any) -> PatientConnection:
    """What aiosqlite.connect does, with a patient connection, and a thread that keeps no process alive."""
    connection = PatientConnection(lambda: sqlite3.connect(path, **options), 64)
    connection._thread.daemon = True
    opening: asyncio.Future[aiosqlite.Connection] = asyncio.ensure_future(connection)
    try:
        await uninterrupted(opening)
    except asyncio.CancelledError:
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            await connection.close()
        raise
    return connection
