"""Migrates a database to this program's schema, and checks at start-up that it is there.

An upgrade is one transaction under one lock: of two processes that start together one migrates, and a kill in the
middle leaves the old schema. Blocking: call it before the event loop starts, or in a thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from models.driver_errors import to_unavailable
from models.engines import sync_engine
from models.errors import (
    DatabaseError,
    DatabaseUnavailable,
    ForeignDatabase,
    NewerDatabase,
    RevisionError,
    UnsupportedEncoding,
)
from models.private_files import create_folder
from models.urls import sqlite_path, sync_url

ROOT = Path(__file__).resolve().parent.parent
# Key of the advisory lock that serializes upgrades on Postgres: an arbitrary constant.
ADVISORY_LOCK_KEY = 0x6C6C616D61
LOCK_TIMEOUT = 120.0  # seconds to wait for another process's upgrade on SQLite
QUICK_CHECK_BYTES = 64 * 1024 * 1024  # larger files are not checked at every start
OUR_TABLE = "dialogs"  # present in every revision


def alembic_config(url: str) -> Config:
    """Alembic's configuration for this database; migrations/env.py reads the URL from its attributes."""
    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = url
    return config


def head_revision() -> str:
    """Return the revision that this program needs."""
    head = _scripts().get_current_head()
    if head is None:
        raise AssertionError("migrations/versions holds no revision")
    return head


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(ROOT / "migrations"))


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate to `revision`. Creates the SQLite file and its folder; waits for another process that is upgrading.

    Raises ForeignDatabase, NewerDatabase, UnsupportedEncoding or DatabaseUnavailable; then nothing was changed.
    """
    path = sqlite_path(url)
    if path is not None:
        _require_file(path)
        try:
            create_folder(path.parent)
        except OSError as error:
            raise DatabaseUnavailable(f"cannot create the folder of {path}: {error.strerror}") from error
    _in_transaction(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """Migrate back to `revision`, for operators and tests. Data of newer tables and columns is lost."""
    _in_transaction(url, lambda config: command.downgrade(config, revision))


def check_revision(url: str) -> None:
    """Raise a DatabaseError unless the database is at this program's revision and can hold every text.

    RevisionError (NewerDatabase), ForeignDatabase, UnsupportedEncoding or DatabaseUnavailable say what it is instead.
    Creates nothing, not even an empty SQLite file.
    """
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise RevisionError(None, head_revision())
    if path is not None:
        _require_file(path)
    try:
        engine = sync_engine(sync_url(url), writer=False)
        try:
            with engine.connect() as connection:
                if path is not None and path.stat().st_size <= QUICK_CHECK_BYTES:
                    _quick_check(connection)
                found = _current(connection)
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        raise to_unavailable(error) from error
    if found != head_revision():
        raise RevisionError(found, head_revision())


def _in_transaction(url: str, work: Callable[[Config], None]) -> None:
    """Run an Alembic command in one transaction, under the lock that serializes upgrades."""
    sqlite = sqlite_path(url) is not None
    # SQLite rebuilds a table by dropping the old one. With foreign keys on, that would cascade; so they are off and
    # checked once before the commit.
    engine = sync_engine(sync_url(url), busy_timeout=LOCK_TIMEOUT, foreign_keys=False)
    config = alembic_config(url)
    try:
        with engine.connect() as connection:
            if not sqlite:
                # Whatever the server's default is: what the upgrade that we waited for has done must be visible.
                connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                if not sqlite:
                    # Of the transaction, not of the session: a transaction pooler gives the next one another session.
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK_KEY})
                _current(connection)
                config.attributes["connection"] = connection
                work(config)
                if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                    raise DatabaseError("the migration would leave rows without their parents; nothing was changed")
    except SQLAlchemyError as error:
        raise to_unavailable(error) from error
    finally:
        engine.dispose()


def _current(connection: Connection) -> str | None:
    """Return the database's revision, or None if it is empty.

    Raises UnsupportedEncoding, ForeignDatabase for another program's tables, NewerDatabase for an unknown revision.
    """
    _check_encoding(connection)
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    found = MigrationContext.configure(connection).get_current_heads() if "alembic_version" in tables else ()
    if len(found) == 1 and OUR_TABLE in tables:
        if found[0] not in {script.revision for script in _scripts().walk_revisions()}:
            raise NewerDatabase(found[0], head_revision())
        return found[0]
    if tables == {"alembic_version"} and not found:
        return None  # what a downgrade to base leaves behind
    raise ForeignDatabase("the database holds another program's tables; point GUILDLLAMA_DATABASE_URL at a fresh one")


def _check_encoding(connection: Connection) -> None:
    """Refuse every encoding but UTF8.

    SQL_ASCII stores any bytes unchecked, and the others (LATIN1, EUC_JP, ...) have no emoji: a reply would be lost
    after it was generated.
    """
    if connection.dialect.name == "sqlite":
        return
    encoding = str(connection.exec_driver_sql("SHOW server_encoding").scalar_one())
    if encoding.upper() not in ("UTF8", "UNICODE"):
        raise UnsupportedEncoding(encoding)


def _require_file(path: Path) -> None:
    """Refuse a folder, a pipe or a device: SQLite would wait for a lock on some of them for minutes."""
    with contextlib.suppress(OSError):  # SQLite will say what is wrong
        if path.exists() and not path.is_file():
            raise DatabaseUnavailable(f"{path} is not a regular file")


def _quick_check(connection: Connection) -> None:
    result = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if result != "ok":
        raise DatabaseUnavailable(f"the database file is damaged ({result}); restore a backup")
