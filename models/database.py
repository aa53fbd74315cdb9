"""Opens transactions: the one place where sessions begin, commit, roll back and are retried.

SQLite has one connection for writing, so tasks of this process never wait for each other's file lock, and a pool of
four for reading. Postgres has one pool for both. Knows no tables: what a transaction does is up to the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar

import aiosqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from models.application import TERMINAL, acting_for
from models.driver_errors import is_transient, is_unavailable, to_unavailable
from models.encryption import TextCodec
from models.engines import POSTGRES_POOL, READERS, postgres_async_engine, sqlite_async_engine
from models.process_owner import register_owner, release_owner
from models.sqlite.aiosqlite_adapter import run_to_completion
from models.sqlite.group_commit import Committed, GroupCommit, savepoint
from models.sqlite.sqlite_file import SQLiteFile
from models.statement_guard import GUARD
from models.transaction_times import OnTransaction, TimedSlot, ignore_transaction
from models.urls import async_url, prepare_threshold

T = TypeVar("T")
Session: TypeAlias = AsyncSession  # what queries take
Work: TypeAlias = Callable[[AsyncSession], Awaitable[T]]  # what a transaction does

MAX_ATTEMPTS = 4
# Pauses of about 0.2, 0.8 and 3.2 seconds between attempts: together they outlast a restart of Postgres.
BACKOFF_BASE = 0.2  # seconds
BACKOFF_FACTOR = 4.0
CLOSE_TIMEOUT = 5.0  # seconds that `close` waits for running transactions


class Database:
    """A database, opened by URL. Connects on first use; belongs to the event loop it is used in.

    `busy_timeout`: seconds that SQLite waits for another process's lock. `application_id`: whose rows its transactions
    touch; None, until the bot has logged in: none may begin. `guarded`: refuse a statement that could touch others'.
    `on_transaction` is told of each transaction how long it took.
    """

    def __init__(
        self,
        url: str,
        *,
        echo: bool = False,
        encryption_keys: Sequence[str] = (),
        busy_timeout: float = 3.0,
        application_id: int | None = TERMINAL,
        guarded: bool = False,
        on_transaction: OnTransaction = ignore_transaction,
    ) -> None:
        self.url = url
        self._on_transaction = on_transaction
        self.application_id = application_id
        self.codec = TextCodec(encryption_keys)
        self.owner = register_owner()
        parsed = async_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._file: SQLiteFile | None = None
        if self.is_sqlite:
            self._file = SQLiteFile(Path(parsed.database or ""))
            self._writer, self._reader = (
                sqlite_async_engine(parsed, file=self._file, writer=writer, busy_timeout=busy_timeout, echo=echo)
                for writer in (True, False)
            )
            self._read_options: dict[str, object] = {}
        else:
            self._writer = self._reader = postgres_async_engine(
                parsed, echo=echo, prepare_threshold=prepare_threshold(url)
            )
            # All reads of a transaction see one snapshot, as in SQLite's WAL mode.
            self._read_options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        if guarded:
            for engine in self.engines:
                GUARD.install(engine.sync_engine)
        # Tasks queue here rather than in the pool: first come first served, without the pool's timeout, and before a
        # session is created.
        self._write_slots = asyncio.Semaphore(1 if self.is_sqlite else POSTGRES_POOL)
        self._read_slots = asyncio.Semaphore(READERS) if self.is_sqlite else self._write_slots
        self._group = GroupCommit(self._writer, self._write_slots, self._require_file) if self.is_sqlite else None
        self._slot_counts = (
            ((self._write_slots, 1), (self._read_slots, READERS))
            if self.is_sqlite
            else ((self._write_slots, POSTGRES_POOL),)
        )

    @property
    def engines(self) -> tuple[AsyncEngine, ...]:
        """The SQLAlchemy engines (the writer's, then the readers' on SQLite), for tests that watch the pools."""
        return (self._writer,) if self._writer is self._reader else (self._writer, self._reader)

    def for_application(self, application_id: int) -> Database:
        """Return a view with the same connections, whose transactions touch the rows of another application."""
        view = copy.copy(self)
        view.application_id = application_id
        return view

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a read-only transaction; all its statements see one snapshot."""
        with _translate_errors():
            slot = TimedSlot(self._read_slots, "read", self._on_transaction)
            async with slot, self._transaction(self._reader, self._read_options) as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction that commits when the block ends and rolls back on any exception.

        Only connecting and BEGIN are retried; use `run` for work that may be repeated as a whole. Raises
        DatabaseUnavailable.
        """
        with _translate_errors():
            async with self._write_transaction(attempt=1, max_attempts=MAX_ATTEMPTS) as session:
                yield session

    async def run(self, work: Work[T], *, brief: bool = False) -> T:
        """Run `work` in a write transaction; retry the whole of it after a lost connection, a lock or a conflict.

        `brief` is for a few small statements by primary key or unique index. On SQLite they then run in the event
        loop's thread: without a thread switch per statement the transaction, and the queue behind it, is several times
        faster. Those that wait for the connection at the same time are committed together, so `work` itself never
        commits, rolls back or opens a savepoint. Raises DatabaseUnavailable.
        """
        with _translate_errors():
            first = 1
            if brief and self._group is not None and self._write_slots.locked():
                if (done := await self._run_in_group(self._group, work)) is not None:
                    return done.value
                first = 2
            for attempt in range(first, MAX_ATTEMPTS + 1):
                try:
                    async with self._write_transaction(attempt=attempt, max_attempts=1, brief=brief) as session:
                        return await work(session)
                except SQLAlchemyError as error:
                    if not is_transient(error) or attempt == MAX_ATTEMPTS:
                        raise
                await _back_off(attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _run_in_group(self, group: GroupCommit, work: Work[T]) -> Committed[T] | None:
        """Run `work` in a savepoint of a transaction that others share. None: it must be run alone."""
        asked_at, began_at, failed = time.monotonic(), 0.0, False

        async def in_savepoint(connection: AsyncConnection) -> T:
            nonlocal began_at
            began_at = time.monotonic()
            with acting_for(self._required_application()):
                session = AsyncSession(
                    connection,
                    expire_on_commit=False,
                    autoflush=False,
                    info={**self._info(attempt=1), "connection": connection},
                    join_transaction_mode="rollback_only",
                )
                try:
                    with savepoint(connection):
                        value = await work(session)
                        if session.in_transaction():  # objects were loaded or added
                            await session.commit()
                    return value
                finally:
                    if session.in_transaction():
                        await session.close()

        try:
            done = await group.run(in_savepoint)
            failed = done is None
            return done
        finally:
            if began_at:
                self._on_transaction("write", began_at - asked_at, time.monotonic() - began_at, failed)

    async def check_file(self, revision: str) -> None:
        """Raise DatabaseUnavailable if the SQLite file was deleted, replaced or overwritten while it is open.

        `revision`: the schema's, which a file that took its place may not have. No-op on Postgres.
        """
        if self._file is not None:
            await asyncio.to_thread(self._file.check_content, revision)

    def _require_file(self) -> None:
        """Raise DatabaseUnavailable if the SQLite file was deleted or replaced: what is committed would be lost."""
        if self._file is not None:
            self._file.check()

    async def truncate_wal(self) -> None:
        """Checkpoint SQLite's write-ahead log and truncate it, as far as open readers allow. No-op on Postgres."""
        await self._maintain("PRAGMA wal_checkpoint(TRUNCATE)")

    async def vacuum_pages(self, pages: int) -> None:
        """Return up to `pages` free pages of a SQLite file to the file system. No-op on Postgres."""
        await self._maintain(f"PRAGMA incremental_vacuum({pages})")

    async def _maintain(self, pragma: str) -> None:
        """Run a pragma on the driver's connection: SQLAlchemy would put it in a transaction and not fetch its rows."""
        if not self.is_sqlite:
            return
        with _translate_errors():
            async with self._write_slots, self._writer.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                if isinstance(driver, aiosqlite.Connection):
                    await driver.execute_fetchall(pragma)

    async def close(self) -> None:
        """Wait up to CLOSE_TIMEOUT for transactions that run or wait, then close every connection."""
        async with contextlib.AsyncExitStack() as all_slots:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    if self._group is not None:
                        await self._group.ended()
                    for slots, count in self._slot_counts:
                        for _ in range(count):
                            await all_slots.enter_async_context(slots)
            # Nobody takes a connection that is being closed: what is sent to its thread after that gets no answer.
            for engine in self.engines:
                await engine.dispose()
        release_owner(self.owner)

    @asynccontextmanager
    async def _write_transaction(
        self, *, attempt: int, max_attempts: int, brief: bool = False
    ) -> AsyncIterator[AsyncSession]:
        options: dict[str, object] = {"brief": True} if brief and self.is_sqlite else {}
        transaction = self._transaction(self._writer, options, attempt=attempt, max_attempts=max_attempts)
        async with TimedSlot(self._write_slots, "write", self._on_transaction), transaction as session:
            yield session

    @asynccontextmanager
    async def _transaction(
        self, engine: AsyncEngine, options: dict[str, object], *, attempt: int = 1, max_attempts: int = MAX_ATTEMPTS
    ) -> AsyncIterator[AsyncSession]:
        """Connect and BEGIN (up to `max_attempts` times), yield the session, commit.

        `attempt` counts the runs of the whole transaction; queries read it from `session.info`.
        """
        self._require_file()
        with acting_for(self._required_application()):
            async with self._session(engine, options, attempt=attempt, max_attempts=max_attempts) as session:
                yield session

    def _required_application(self) -> int:
        if self.application_id is None:
            raise RuntimeError("a transaction needs an application, which is known once the bot has logged in")
        return self.application_id

    def _info(self, attempt: int) -> dict[str, object]:
        """What queries read from `session.info`."""
        return {"codec": self.codec, "owner": self.owner, "attempt": attempt}

    @asynccontextmanager
    async def _session(
        self, engine: AsyncEngine, options: dict[str, object], *, attempt: int, max_attempts: int
    ) -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine, expire_on_commit=False, autoflush=False, info=self._info(attempt)) as session:
            for connect_attempt in range(1, max_attempts + 1):
                try:
                    connecting = session.connection(execution_options=options)
                    # Cancelled half-way, a SQLite connection would leak from the pool; opening one takes little time.
                    connection = await (run_to_completion(connecting) if self.is_sqlite else connecting)
                    session.info["connection"] = connection
                    break
                except SQLAlchemyError as error:
                    if not is_transient(error) or connect_attempt == max_attempts:
                        raise
                    await session.rollback()
                    self._require_file()
                await _back_off(connect_attempt)
            try:
                yield session
                self._require_file()
                await session.commit()
            except SQLAlchemyError:
                self._require_file()
                raise


async def _back_off(attempt: int) -> None:
    """Wait before the next attempt, with jitter so that two processes in conflict do not collide again."""
    await asyncio.sleep(BACKOFF_BASE * BACKOFF_FACTOR ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn errors that mean "the database is unavailable" into DatabaseUnavailable."""
    try:
        yield
    except sqlite3.Error as error:  # from a pragma, past SQLAlchemy
        raise to_unavailable(error) from error
    except SQLAlchemyError as error:
        if is_unavailable(error):
            raise to_unavailable(error) from error
        raise
