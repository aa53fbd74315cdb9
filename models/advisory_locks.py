"""Locks between processes, in Postgres: a connection of its own holds them, and they end with it.

The locks are the session's, so that each can be given back by itself, and the connection has a transaction open all the
time, so that a pooler leaves it the session. A process that ends, however it ends, loses its locks at once. One that is
stopped keeps them, until another one ends its connection (`end_holder`). Knows keys, and no table.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib

from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from models.driver_errors import to_unavailable
from models.engines import POSTGRES_OPTIONS
from models.urls import async_url

_CLOSE_SECONDS = 2.0
_NAME_PREFIX = "guildllama lock "

_KEY = "CAST(:kind AS integer), CAST(:number AS integer)"
_TAKE = text(f"SELECT pg_try_advisory_lock({_KEY})")
_TAKE_SHARED = text(f"SELECT pg_try_advisory_lock_shared({_KEY})")
_GIVE = text(f"SELECT pg_advisory_unlock({_KEY})")
_GIVE_SHARED = text(f"SELECT pg_advisory_unlock_shared({_KEY})")
_SHARE_FENCE = text(f"SELECT pg_advisory_xact_lock_shared({_KEY})")
_NAME = text("SELECT set_config('application_name', :name, true)")
_HELD = (
    "l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = CAST(CAST(:kind AS bigint) AS oid)"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_WITH_NUMBER = f"FROM pg_locks l WHERE {_HELD} AND l.objid = CAST(CAST(:number AS bigint) AS oid)"
_COUNT = text(f"SELECT count(DISTINCT l.pid) {_WITH_NUMBER}")
_IS_HELD_BY = text(f"SELECT 1 {_WITH_NUMBER} AND l.pid = CAST(:pid AS integer)")
_HOLDERS = text(
    f"SELECT DISTINCT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE {_HELD}"  # noqa: S608
)
_END = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid AND application_name = :name")
_END_EARLIER = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = :name"
)


def lock_kind(*parts: object) -> int:
    """A number for locks of this kind, of 31 bits: what has other parts has, most likely, another one."""
    digest = hashlib.blake2b("\x00".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def holder_name(owner: str) -> str:
    """How Postgres lists the connection of this owner (see `models.process_owner`); names have 63 bytes at most."""
    return _NAME_PREFIX + hashlib.blake2b(owner.encode(), digest_size=12).hexdigest()


class LockConnection:
    """An open connection. Every method raises DatabaseUnavailable, and then all of its locks are to be taken for lost.

    `owner`: the process, by which others can tell whose connection it is.
    """

    def __init__(self, url: str, owner: str) -> None:
        self._engine: AsyncEngine = create_async_engine(
            async_url(url), poolclass=NullPool, hide_parameters=True, connect_args=POSTGRES_OPTIONS
        )
        self._name = holder_name(owner)
        self._turn = asyncio.Lock()
        self._connection: AsyncConnection | None = None
        self.pid = 0
        """Postgres' number of the session."""

    async def open(self) -> None:
        """Connect, and begin the transaction that stays open."""
        try:
            connection = await self._engine.connect()
            self._connection = await connection.execution_options(isolation_level="READ COMMITTED")
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            await connection.execute(_NAME, {"name": self._name})
            # One of ours that broke may still be there, as long as Postgres has not noticed that.
            await connection.execute(_END_EARLIER, {"name": self._name})
        except SQLAlchemyError as error:
            raise to_unavailable(error) from error
        self.pid = await self._number(text("SELECT pg_backend_pid()"))

    async def close(self) -> None:
        """Disconnect. The locks end with the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError, TimeoutError):  # it may have been lost before
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await connection.execute(text("SELECT pg_advisory_unlock_all()"))
            with contextlib.suppress(SQLAlchemyError, TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await connection.close()
        await self._engine.dispose()

    async def take(self, kind: int, number: int, *, shared: bool = False) -> bool:
        """Take a lock that this connection does not hold, unless another one has it."""
        return bool(await self._scalar(_TAKE_SHARED if shared else _TAKE, kind=kind, number=number))

    async def give(self, kind: int, number: int, *, shared: bool = False) -> None:
        """Give a lock back."""
        await self._scalar(_GIVE_SHARED if shared else _GIVE, kind=kind, number=number)

    async def count(self, kind: int, number: int) -> int:
        """How many connections hold a shared lock."""
        return await self._number(_COUNT, kind=kind, number=number)

    async def holders(self, kind: int) -> dict[int, str]:
        """The sessions that hold a lock of this kind, by their numbers, with their names."""
        try:
            async with self._turn:
                rows = await self._open_connection().execute(_HOLDERS, {"kind": kind})
            return {pid: name or "" for pid, name in rows}
        except SQLAlchemyError as error:
            raise to_unavailable(error) from error

    async def end_holder(self, pid: int, name: str) -> bool:
        """End the session of another process, and with it its locks; whether it still was there."""
        return bool(await self._scalar(_END, pid=pid, name=name))

    async def check(self) -> None:
        """Raise DatabaseUnavailable unless the session is still there."""
        await self._scalar(text("SELECT 1"))

    async def _scalar(self, statement: TextClause, **values: object) -> object:
        try:
            async with self._turn:
                return await self._open_connection().scalar(statement, values)
        except SQLAlchemyError as error:
            raise to_unavailable(error) from error

    async def _number(self, statement: TextClause, **values: object) -> int:
        found = await self._scalar(statement, **values)
        return found if isinstance(found, int) else 0

    def _open_connection(self) -> AsyncConnection:
        if self._connection is None:
            raise RuntimeError("the connection is not open")
        return self._connection


async def pass_fence(session: AsyncSession, *, kind: int, number: int, fence: int, pid: int) -> bool:
    """Whether the session `pid` holds this lock; it then counts as holding it until this transaction ends.

    A new holder first takes the lock `fence` for a moment, and so waits for the transactions that passed before.
    """
    await session.execute(_SHARE_FENCE, {"kind": kind, "number": fence})
    return (await session.scalar(_IS_HELD_BY, {"kind": kind, "number": number, "pid": pid})) is not None
