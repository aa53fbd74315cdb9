"""Opens transactions. The one place where sessions begin, commit, roll back and are tried again.

On SQLite a single connection writes, so inside the process nobody ever meets a lock, and four others read. On Postgres
all share one pool. Knows no tables: what happens in a transaction is the caller's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import aiosqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from models.aiosqlite_adapter import uninterrupted
from models.driver_errors import is_transient, is_unavailable, unavailable
from models.encryption import TextCodec
from models.engines import POSTGRES_POOL, READERS, postgres_async_engine, sqlite_async_engine
from models.process_owner import register_owner, release_owner
from models.urls import async_url

T = TypeVar("T")

ATTEMPTS = 4  # the first and three more
# Enough to sit out a restart of Postgres: about 0.2, 0.8 and 3.2 seconds.
BACKOFF_BASE = 0.2
BACKOFF_FACTOR = 4.0
CLOSING_PATIENCE = 5.0


class Database:
    """A database by URL. Connects on first use; belongs to the event loop it is used in."""

    def __init__(
        self, url: str, *, echo: bool = False, encryption_keys: Sequence[str] = (), busy_timeout: float = 3.0
    ) -> None:
        self.url = url
        self.codec = TextCodec(encryption_keys)
        self.owner = register_owner()
        parsed = async_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writer = sqlite_async_engine(parsed, writer=True, busy_timeout=busy_timeout, echo=echo)
            self._reader = sqlite_async_engine(parsed, writer=False, busy_timeout=busy_timeout, echo=echo)
            self._read_options: dict[str, object] = {}
        else:
            self._writer = self._reader = postgres_async_engine(parsed, echo=echo)
            # One snapshot for the whole transaction, as WAL gives on SQLite.
            self._read_options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        # Who waits, waits here: in order, without the pool's time limit, and before anything is built for it.
        self._write_turn = asyncio.Semaphore(1 if self.is_sqlite else POSTGRES_POOL)
        self._read_turn = asyncio.Semaphore(READERS) if self.is_sqlite else self._write_turn
        self._places = (
            ((self._write_turn, 1), (self._read_turn, READERS))
            if self.is_sqlite
            else ((self._write_turn, POSTGRES_POOL),)
        )

    @property
    def engines(self) -> tuple[AsyncEngine, ...]:
        """The engines behind the sessions, for tests and metrics that watch the pools."""
        return (self._writer,) if self._writer is self._reader else (self._writer, self._reader)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A read-only transaction over one snapshot."""
        with _translating():
            async with self._read_turn, self._begun(self._reader, self._read_options) as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A transaction that commits when its block ends and rolls back on any exception.

        Only its beginning is tried again; use `run` for work that may be repeated as a whole.
        """
        with _translating():
            async with self._writing(attempt=1, patience=ATTEMPTS) as session:
                yield session

    async def run(self, work: Callable[[AsyncSession], Awaitable[T]], *, brief: bool = False) -> T:
        """The whole write transaction, tried again when it was lost, locked out or could not be serialised.

        `brief`: a few small statements by key. On SQLite they run in the caller's own thread, which is many times
        faster than to ask another one for each, and lets everybody behind them in.
        """
        with _translating():
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    async with self._writing(attempt=attempt, patience=1, brief=brief) as session:
                        return await work(session)
                except SQLAlchemyError as error:
                    if not is_transient(error) or attempt == ATTEMPTS:
                        raise
                await _pause(attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def truncate_wal(self) -> None:
        """Moves the write-ahead log into the file and empties it, as far as readers allow. Postgres has none."""
        await self._maintain("PRAGMA wal_checkpoint(TRUNCATE)")

    async def vacuum_pages(self, pages: int) -> None:
        """Gives at most so many free pages of a SQLite file back to the file system."""
        await self._maintain(f"PRAGMA incremental_vacuum({pages})")

    async def _maintain(self, pragma: str) -> None:
        """Runs a pragma to its end below SQLAlchemy, which would wrap it in a transaction and not read it out."""
        if not self.is_sqlite:
            return
        with _translating():
            async with self._write_turn, self._writer.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                if isinstance(driver, aiosqlite.Connection):
                    await driver.execute_fetchall(pragma)

    async def close(self) -> None:
        """Lets transactions that are running end, for a moment, and closes every connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_PATIENCE), contextlib.AsyncExitStack() as everybody_out:
                for turn, places in self._places:
                    for _ in range(places):
                        await everybody_out.enter_async_context(turn)
        for engine in self.engines:
            await engine.dispose()
        release_owner(self.owner)

    @asynccontextmanager
    async def _writing(self, *, attempt: int, patience: int, brief: bool = False) -> AsyncIterator[AsyncSession]:
        options: dict[str, object] = {"brief": True} if brief and self.is_sqlite else {}
        begun = self._begun(self._writer, options, attempt=attempt, patience=patience)
        async with self._write_turn, begun as session:
            yield session

    @asynccontextmanager
    async def _begun(
        self, engine: AsyncEngine, options: dict[str, object], *, attempt: int = 1, patience: int = ATTEMPTS
    ) -> AsyncIterator[AsyncSession]:
        info = {"codec": self.codec, "owner": self.owner, "attempt": attempt}
        async with AsyncSession(engine, expire_on_commit=False, autoflush=False, info=info) as session:
            for trial in range(1, patience + 1):
                try:
                    connecting = session.connection(execution_options=options)
                    # A connection that is given up half made would be lost; on SQLite it takes a moment only.
                    await (uninterrupted(connecting) if self.is_sqlite else connecting)
                    break
                except SQLAlchemyError as error:
                    if not is_transient(error) or trial == patience:
                        raise
                    await session.rollback()
                await _pause(trial)
            yield session
            await session.commit()


async def _pause(attempt: int) -> None:
    """Between attempts, with jitter: two processes that met once should not meet again."""
    await asyncio.sleep(BACKOFF_BASE * BACKOFF_FACTOR ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        if is_unavailable(error):
            raise unavailable(error) from error
        raise
