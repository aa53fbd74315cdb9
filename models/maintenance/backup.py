"""Backs up either database into one SQLite file while the bot runs, and restores it into either.

Blocking: `guildllama db backup` and `restore` are processes of their own.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from models.errors import DatabaseError, DatabaseUnavailable
from models.maintenance.transfer import TableCopy, copy_database
from models.migrate import check_revision, upgrade
from models.private_files import create_file
from models.urls import sqlite_path

PAGES_PER_STEP = 1000  # of SQLite's online backup


def backup(url: str, file: Path) -> int:
    """Write a backup next to `file` and rename it when it is complete; return its size in bytes.

    Raises DatabaseError if `file` exists, DatabaseUnavailable if the database or the disk fails.
    """
    check_revision(url)
    with written_beside(file, url) as part:
        if sqlite_path(url) is None:
            copy_database(url, f"sqlite:///{part}")
    check_revision(f"sqlite:///{file}")
    return file.stat().st_size


@contextmanager
def written_beside(file: Path, url: str) -> Iterator[Path]:
    """A file beside `file`, which takes its name at the end of this block, checked and on the disk; or is removed.

    It holds a copy of a SQLite database already; of another one, the block writes it. Raises DatabaseError if `file`
    exists, DatabaseUnavailable if the database or the disk fails.
    """
    if file.exists():
        raise DatabaseError(f"{file} exists already; choose another name")
    if not file.parent.is_dir():
        raise DatabaseUnavailable(f"the folder {file.parent} does not exist")
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    path = sqlite_path(url)
    try:
        if path is not None:
            _copy_file(path, part)
        yield part
        _check_and_sync(part)
        part.rename(file)
    except sqlite3.Error as error:
        raise DatabaseUnavailable(str(error)) from error
    except OSError as error:
        raise DatabaseUnavailable(f"{file} cannot be written: {error.strerror}") from error
    finally:
        for leftover in (part, part.with_name(part.name + "-wal"), part.with_name(part.name + "-shm")):
            leftover.unlink(missing_ok=True)


def restore(file: Path, url: str, *, replace: bool = False) -> tuple[TableCopy, ...]:
    """Restore a backup of this or an older revision; return what was copied, table by table.

    The backup is not changed: an older one is migrated in a copy. Raises DatabaseError if the target holds rows,
    unless `replace`.
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
    """Copy a SQLite file by SQLite's online backup: a snapshot, even while others write."""
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reading:
        if reading.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise DatabaseUnavailable(f"{source} is damaged")
        # Inside one read transaction; otherwise each concurrent write would restart the copy.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
        create_file(target)
        with closing(sqlite3.connect(target)) as writing:
            reading.backup(writing, pages=PAGES_PER_STEP, sleep=0)
        reading.rollback()


def _check_and_sync(part: Path) -> None:
    """Checkpoint the WAL into the file, check its integrity, and fsync it."""
    with closing(sqlite3.connect(part)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        if connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise DatabaseUnavailable("the backup did not come out sound; the disk may be full or failing")
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
