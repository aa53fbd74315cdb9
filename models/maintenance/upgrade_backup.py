"""Backs up a database of an older revision before it is upgraded, into a SQLite file of that revision.

`guildllama db restore` reads the file like any backup: it migrates a copy of it first. What the tables of that revision
are is read from the database itself, since no class describes them any more. Blocking.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from models.driver_errors import to_unavailable
from models.engines import sync_engine
from models.errors import DatabaseError, DatabaseUnavailable, NewerDatabase, RevisionError
from models.maintenance.backup import written_beside
from models.maintenance.transfer import CHUNK_ROWS, snapshot
from models.migrate import check_revision, upgrade
from models.private_files import create_folder
from models.urls import sqlite_path, sync_url

_REVISIONS = "alembic_version"  # written by the upgrade of the file
_ID = "id"


def old_revision(url: str) -> str | None:
    """The revision of a database that an upgrade would change; None for one that is empty or current."""
    try:
        check_revision(url)
    except NewerDatabase:
        raise
    except RevisionError as error:
        return error.found
    return None


def default_folder(url: str) -> Path:
    """Where backups go: beside a SQLite file, else into the working directory."""
    path = sqlite_path(url)
    return Path("backups") if path is None else path.parent / "backups"


def backup_before_upgrade(url: str, folder: Path, revision: str, *, now: datetime | None = None) -> Path:
    """Write the backup, complete or not at all, and return its file. Raises DatabaseError or DatabaseUnavailable."""
    at = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    file = folder / f"guildllama-{revision}-{at}.db"
    try:
        create_folder(folder)
    except OSError as error:
        raise DatabaseUnavailable(f"the folder {folder} cannot be created: {error.strerror}") from error
    with written_beside(file, url) as part:
        if sqlite_path(url) is None:
            try:
                _copy_from_server(url, part, revision)
            except SQLAlchemyError as error:
                raise to_unavailable(error) from error
    return file


def _copy_from_server(url: str, part: Path, revision: str) -> None:
    target_url = f"sqlite:///{part}"
    upgrade(target_url, revision)
    source = sync_engine(sync_url(url), writer=False)
    # Rows may name rows of tables that come later.
    target = sync_engine(sync_url(target_url), foreign_keys=False)
    try:
        theirs, ours = _tables(source), _tables(target)
        if set(theirs) != set(ours):
            odd = ", ".join(sorted(set(theirs) ^ set(ours)))
            raise DatabaseError(f"the database has other tables than its revision {revision}: {odd}")
        for name in ours:
            if lacking := ", ".join(sorted(set(ours[name].c.keys()) - set(theirs[name].c.keys()))):
                raise DatabaseError(f"the table {name} lacks columns of its revision {revision}: {lacking}")
        with snapshot(source) as reading, target.begin() as writing:
            for name, table in ours.items():
                _copy_table(reading, writing, theirs[name], table)
            if writing.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise DatabaseError("the backup would have rows without their parents")
    finally:
        source.dispose()
        target.dispose()


def _tables(engine: Engine) -> dict[str, Table]:
    metadata = MetaData()
    metadata.reflect(engine)
    return {name: table for name, table in metadata.tables.items() if name != _REVISIONS}


def _copy_table(reading: Connection, writing: Connection, source: Table, target: Table) -> None:
    names = [column.name for column in target.columns]
    wanted = select(*(source.c[name] for name in names)).execution_options(yield_per=CHUNK_ROWS)
    for chunk in reading.execute(wanted).partitions():
        writing.execute(insert(target), [dict(zip(names, map(_stored, row), strict=True)) for row in chunk])
    counts = [
        connection.execute(select(func.count()).select_from(table)).scalar_one()
        for connection, table in ((reading, source), (writing, target))
    ]
    if counts[0] != counts[1]:
        raise DatabaseError(f"the copy of {target.name} has {counts[1]} rows instead of {counts[0]}")
    for last in _last_id(reading, source):
        changed = writing.execute(
            text("UPDATE sqlite_sequence SET seq = :last WHERE name = :name"), {"name": target.name, "last": last}
        )
        if not changed.rowcount:
            writing.execute(
                text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"),
                {"name": target.name, "last": last},
            )


def _stored(value: object) -> object:
    """As SQLite keeps it: times without a zone, in UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def _last_id(connection: Connection, table: Table) -> Iterator[int]:
    """The last row id that the server gave, so that ids of deleted rows are not used again."""
    if _ID not in table.c:
        return
    sequence = connection.execute(
        text("SELECT pg_get_serial_sequence(:table, 'id')"), {"table": table.name}
    ).scalar_one_or_none()
    if sequence is None:
        return
    last = connection.execute(
        text("SELECT last_value FROM pg_sequences WHERE schemaname || '.' || sequencename = :name"), {"name": sequence}
    ).scalar_one_or_none()
    if last:
        yield int(last)
