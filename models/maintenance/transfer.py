"""Copies a database between SQLite and Postgres (or two of a kind), and verifies it by row counts and checksums.

One snapshot of the source, one transaction in the target: the copy is complete or absent. Encrypted text is copied as
it is. Blocking: it runs in a process of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy import Connection, Engine, Row, Table, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from models.driver_errors import to_unavailable
from models.engines import sync_engine
from models.errors import DatabaseError
from models.migrate import check_revision, upgrade
from models.tables import Base
from models.urls import sync_url

CHUNK_ROWS = 2000  # rows read and inserted at a time


@dataclass(frozen=True, slots=True)
class TableCopy:
    """One copied table; `checksum` is the SHA-256 of its rows, the same in source and target."""

    name: str
    rows: int
    checksum: str


def copy_database(source_url: str, target_url: str, *, replace: bool = False) -> tuple[TableCopy, ...]:
    """Migrate the target, then copy every table into it. `replace` deletes the target's rows first.

    Raises DatabaseError if the target holds rows or the copy differs, DatabaseUnavailable if a database fails.
    """
    if sync_url(source_url) == sync_url(target_url):
        raise DatabaseError("source and target are the same database")
    check_revision(source_url)
    upgrade(target_url)
    source = sync_engine(sync_url(source_url), writer=False)
    target = sync_engine(sync_url(target_url), busy_timeout=30.0)
    try:
        return _copy(source, target, replace)
    except SQLAlchemyError as error:
        raise to_unavailable(error) from error
    finally:
        source.dispose()
        target.dispose()


def _copy(source: Engine, target: Engine, replace: bool) -> tuple[TableCopy, ...]:
    with snapshot(source) as reading, target.begin() as writing:
        tables = Base.metadata.sorted_tables
        for table in reversed(tables):
            if replace:
                writing.execute(table.delete())
            elif writing.execute(select(func.count()).select_from(table)).scalar_one():
                raise DatabaseError(f"the target already holds rows in {table.name}")
        copied = []
        for table in tables:
            source_sum = _Checksum(table)
            for chunk in _chunks(reading, table):
                source_sum.add(chunk)
                writing.execute(insert(table), [dict(row._mapping) for row in chunk])
            target_sum = _Checksum(table)
            for chunk in _chunks(writing, table):
                target_sum.add(chunk)
            if source_sum.result != target_sum.result:
                raise DatabaseError(f"the copy of {table.name} differs from its source")
            copied.append(source_sum.result)
        _copy_sequences(reading, writing)
        return tuple(copied)


class _Checksum:
    """SHA-256 over the rows in primary key order, with values written alike for both databases."""

    def __init__(self, table: Table) -> None:
        self._name = table.name
        self._hash = hashlib.sha256()
        self._rows = 0

    def add(self, rows: Iterable[Row[tuple[object, ...]]]) -> None:
        """Hash more rows."""
        for row in rows:
            self._hash.update(repr([_canonical(value) for value in row]).encode())
            self._rows += 1

    @property
    def result(self) -> TableCopy:
        """The table's name, row count and checksum so far."""
        return TableCopy(self._name, self._rows, self._hash.hexdigest())


def _canonical(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value.isoformat() if isinstance(value, date) else value


def snapshot(engine: Engine) -> Connection:
    """A connection whose reads all see one state of the database."""
    if engine.dialect.name == "sqlite":
        return engine.connect()
    return engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _chunks(connection: Connection, table: Table) -> Iterator[Sequence[Row[tuple[object, ...]]]]:
    rows = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=CHUNK_ROWS)
    yield from connection.execute(rows).partitions()


def _copy_sequences(reading: Connection, writing: Connection) -> None:
    """Copy the row id counters, so that ids of rows deleted before the copy are not used again either."""
    for table in Base.metadata.sorted_tables:
        if not table.dialect_options["sqlite"]["autoincrement"]:
            continue
        last = _last_id(reading, table)
        if not last:
            continue
        if writing.dialect.name == "sqlite":
            writing.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
            writing.execute(
                text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"),
                {"name": table.name, "last": last},
            )
        else:
            writing.execute(
                text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :last)"), {"name": table.name, "last": last}
            )


def _last_id(connection: Connection, table: Table) -> int:
    if connection.dialect.name == "sqlite":
        statement, values = "SELECT seq FROM sqlite_sequence WHERE name = :name", {"name": table.name}
    else:
        statement = "SELECT last_value FROM pg_sequences WHERE schemaname || '.' || sequencename = :name"
        values = {"name": connection.execute(text(f"SELECT pg_get_serial_sequence('{table.name}', 'id')")).scalar_one()}
    return int(connection.execute(text(statement), values).scalar() or 0)
