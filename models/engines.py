"""Creates SQLAlchemy engines whose transactions behave alike on SQLite and Postgres.

SQLite on Python 3.11 needs two event hooks. "connect" turns the driver's implicit BEGIN off. "begin" issues it: BEGIN
IMMEDIATE for writers, because a transaction that starts as a reader and then writes fails with SQLITE_BUSY
without waiting. Knows nothing of tables or queries.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from models.error_text import hide_values
from models.private_files import create_file
from models.sqlite.aiosqlite_adapter import CancelSafeConnection, connect
from models.sqlite.sqlite_file import SQLiteFile

READERS = 4  # connections in SQLite's pool for reading
# A chat holds a connection for milliseconds; with more of them, tasks would only compete for the event loop.
POSTGRES_POOL = 8
POOL_TIMEOUT = 30.0  # seconds
POSTGRES_OPTIONS: dict[str, object] = {
    "connect_timeout": 10,
    # Without it the session has the server's encoding, or the environment's (PGCLIENTENCODING).
    "client_encoding": "utf8",
    # No prepared statements unless the URL asks for them: behind a transaction pooler (PgBouncer, Supabase) the next
    # transaction may run in another session, which does not have them, or has another statement of the same name and
    # would run that one. This cannot be noticed from here, so it is the operator who must know that there is no pooler.
    "prepare_threshold": None,
}


class _Cursor(Protocol):
    def execute(self, statement: str) -> object: ...
    def fetchone(self) -> tuple[object, ...] | None: ...
    def close(self) -> None: ...


class _DriverConnection(Protocol):
    isolation_level: str | None

    def cursor(self) -> _Cursor: ...


def sqlite_async_engine(url: URL, *, file: SQLiteFile, writer: bool, busy_timeout: float, echo: bool) -> AsyncEngine:
    """Create the engine with the single connection for writing, or the one with the pool for reading.

    Neither creates the file: one that was deleted must not come back empty. `file` watches it.
    """
    size = 1 if writer else READERS
    engine = create_async_engine(
        url,
        echo=echo,
        hide_parameters=True,
        pool_size=size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        connect_args={"async_creator_fn": partial(_connect_existing, file)},
    )
    _keep_values_out_of_errors(engine.sync_engine)
    _sqlite_hooks(engine.sync_engine, writer=writer, busy_timeout=busy_timeout)
    _watch_file(engine.sync_engine, file, writer=writer)
    return engine


async def _connect_existing(file: SQLiteFile, _: str, **options: Any) -> CancelSafeConnection:
    """Open the file of the engine's URL, unless it does not exist."""
    return await connect(file.uri(), **{**options, "uri": True})


def _watch_file(engine: Engine, file: SQLiteFile, *, writer: bool) -> None:
    """Let `file` know when it is opened and closed. Installed after the hooks that open the write-ahead log."""

    @event.listens_for(engine, "connect")
    def opened(connection: object, record: object) -> None:
        if writer:
            file.writer_opened()
        else:
            file.check()

    @event.listens_for(engine, "close")
    def closed(connection: object, record: object) -> None:
        if writer:
            file.writer_closed()


def postgres_async_engine(url: URL, *, echo: bool, prepare_threshold: int | None = None) -> AsyncEngine:
    """Create the engine for a Postgres database; one pool serves readers and writers."""
    engine = create_async_engine(
        url,
        echo=echo,
        hide_parameters=True,
        pool_size=POSTGRES_POOL,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={**POSTGRES_OPTIONS, "prepare_threshold": prepare_threshold},
    )
    _keep_values_out_of_errors(engine.sync_engine)
    return engine


def sync_engine(url: URL, *, writer: bool = True, busy_timeout: float = 5.0, foreign_keys: bool = True) -> Engine:
    """Create a blocking engine, for migrations, backup, restore and copy: they run in their own thread or process.

    A writer's SQLite file is created, readable by its owner only, if its folder exists.
    """
    if url.get_backend_name() == "sqlite":
        if writer:
            with contextlib.suppress(OSError):  # SQLite will say what is wrong
                create_file(Path(url.database or ""))
        engine = create_engine(url, hide_parameters=True)
        _sqlite_hooks(engine, writer=writer, busy_timeout=busy_timeout, foreign_keys=foreign_keys)
    else:
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=POSTGRES_OPTIONS)
    _keep_values_out_of_errors(engine)
    return engine


def _keep_values_out_of_errors(engine: Engine) -> None:
    """Reduce the text of every error that the engine raises: it may be logged with a traceback."""

    @event.listens_for(engine, "handle_error")
    def reduce(context: ExceptionContext) -> None:
        hide_values(context.sqlalchemy_exception or context.original_exception)
        hide_values(context.original_exception)


def _sqlite_hooks(engine: Engine, *, writer: bool, busy_timeout: float, foreign_keys: bool = True) -> None:
    """Install the two event hooks. `busy_timeout` in seconds."""

    @event.listens_for(engine, "connect")
    def prepare(connection: _DriverConnection, record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        # The timeout comes first: switching to WAL takes a lock. auto_vacuum has no effect once a table exists.
        cursor.execute(f"PRAGMA busy_timeout = {round(busy_timeout * 1000)}")
        if writer:
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA secure_delete = ON")  # overwrites deleted text instead of only unlinking it
            cursor.execute("PRAGMA journal_size_limit = 67108864")
        else:
            cursor.execute("PRAGMA query_only = ON")
        cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if isinstance(driver, CancelSafeConnection):
            driver.inline = driver.only_reads = not writer  # a reader's BEGIN takes no lock
        if not (writer and isinstance(driver, CancelSafeConnection) and driver.begin_at_once()):
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")
        if isinstance(driver, CancelSafeConnection):
            driver.inline = bool(connection.get_execution_options().get("brief"))
