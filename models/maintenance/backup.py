"""Backups: one SQLite file, whatever the database, consistent while the bot runs, and restorable into either kind.

Blocking on purpose: it runs in a command of its own.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from models.errors import DatabaseError, DatabaseUnavailable
from models.maintenance.transfer import TableCopy, copy_database
from models.migrate import check_revision, upgrade
from models.urls import sqlite_path

PAGES_A_STEP = 1000


def backup(url: str, file: Path) -> int:
    """Writes a backup beside `file` and moves it there when it is complete. Returns its size in bytes."""
    check_revision(url)
    if file.exists():
        raise DatabaseError(f"{file} exists already; choose another name")
    if not file.parent.is_dir():
        raise DatabaseUnavailable(f"the folder {file.parent} does not exist")
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    path = sqlite_path(url)
    try:
        if path is None:
            copy_database(url, f"sqlite:///{part}")
        else:
            _copy_file(path, part)
        _finish(part)
        part.rename(file)
    except sqlite3.Error as error:
        raise DatabaseUnavailable(str(error)) from error
    finally:
        for leftover in (part, part.with_name(part.name + "-wal"), part.with_name(part.name + "-shm")):
            leftover.unlink(missing_ok=True)
    return file.stat().st_size


def restore(file: Path, url: str, *, replace: bool = False) -> tuple[TableCopy, ...]:
    """Brings back a backup of this or an older revision. A database that holds rows is only overwritten if asked.

    The backup itself is not touched: an older one is migrated in a copy.
    """
    if not file.is_file():
        raise DatabaseUnavailable(f"there is no backup {file}")
    with tempfile.TemporaryDirectory(prefix="guildllama-restore-") as folder:
        working = Path(folder) / "working.db"
        try:
            _copy_file(file, working)
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"{file} is not a backup or is damaged: {error}") from error
        upgrade(f"sqlite:///{working}")
        return copy_database(f"sqlite:///{working}", url, replace=replace)


def _copy_file(source: Path, target: Path) -> None:
    """SQLite's own online backup: a snapshot, whoever writes meanwhile."""
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reading:
        if reading.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise DatabaseUnavailable(f"{source} is damaged")
        # In one read transaction, or every write meanwhile would start the copy over.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
        with closing(sqlite3.connect(target)) as writing:
            reading.backup(writing, pages=PAGES_A_STEP, sleep=0)
        reading.rollback()


def _finish(part: Path) -> None:
    """One plain file without a log beside it, checked, and on the disk."""
    with closing(sqlite3.connect(part)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        if connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise DatabaseUnavailable("the backup did not come out sound; the disk may be full or failing")
    check_revision(f"sqlite:///{part}")
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
