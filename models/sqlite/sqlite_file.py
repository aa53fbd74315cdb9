"""Notices that the files of an open SQLite database were deleted or replaced.

SQLite would go on in the files that it has open: everything works until the process ends, and then all of it is gone.
So the files that the paths lead to are compared (device and inode) with those that were there when the database was
opened. Once they differ, the database is refused until the process is restarted. Never opens the database file itself:
closing it again would drop SQLite's locks on it.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from models.errors import DatabaseUnavailable

_Identity = tuple[int, int]
_ADVICE = (
    "what is said now would be lost, so nothing is stored until the bot is restarted. Stop it, put the file back (or "
    "restore a backup with `guildllama db restore`), and start it again"
)


class SQLiteFile:
    """The files of one open database: the main file, its write-ahead log (-wal) and its shared memory (-shm)."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._main: _Identity | None = None
        self._side: dict[Path, _Identity] = {}
        self.lost: str | None = None
        """Why the database is refused from now on; None while all is well."""

    def uri(self, *, mode: str = "rw") -> str:
        """Return the file as a URI for sqlite3. With `rw` it is opened only if it exists."""
        return f"file:{quote(str(self._path))}?mode={mode}"

    def writer_opened(self) -> None:
        """Remember the files, just after SQLite opened them for writing. Raises DatabaseUnavailable."""
        if self._main is None:
            self._main = _identity(self._path)
        self.check()
        for suffix in ("-wal", "-shm"):
            path = self._path.with_name(self._path.name + suffix)
            if (identity := _identity(path)) is not None:
                self._side[path] = identity

    def writer_closed(self) -> None:
        """Forget the -wal and -shm: SQLite deletes them with the last connection and creates them anew."""
        self._side.clear()

    def check(self) -> None:
        """Raise DatabaseUnavailable if a file was deleted or replaced, now or before. Takes microseconds."""
        if self.lost is None and self._main is not None:
            for path, expected in ((self._path, self._main), *self._side.items()):
                try:
                    found = _identity(path)
                except OSError:
                    continue  # the folder cannot be entered just now: that says nothing about the file
                if found != expected:
                    self._give_up(f"{path} was {'deleted' if found is None else 'replaced'} while the bot was running")
        if self.lost is not None:
            raise DatabaseUnavailable(self.lost)

    def check_content(self, revision: str) -> None:
        """Raise DatabaseUnavailable if the file was overwritten by another one in place. Blocking, about 1 ms.

        A new connection must see what ours have set up: WAL mode, and the schema at `revision`.
        """
        self.check()
        if self._main is None:
            return
        try:
            with closing(sqlite3.connect(self.uri(mode="ro"), uri=True, timeout=5.0)) as connection:
                mode = connection.execute("PRAGMA journal_mode").fetchone()
                found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                return  # locked, or out of descriptors
            mode, found = None, []
        except sqlite3.DatabaseError:
            mode, found = None, []
        self.check()
        if mode != ("wal",) or found != [(revision,)]:
            self._give_up(f"{self._path} was overwritten while the bot was running")
            raise DatabaseUnavailable(self.lost or "")

    def _give_up(self, what: str) -> None:
        self.lost = f"{what}: {_ADVICE}"


def _identity(path: Path) -> _Identity | None:
    """Return device and inode of a file, or None if there is none. Raises OSError if that cannot be told."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
