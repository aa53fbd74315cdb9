"""Creates files and folders that only their owner can read, and finds those that others can read too.

Modes are set at creation, whatever the umask. What exists keeps its mode: an operator may have opened it to a
group on purpose; `guildllama doctor` names it. Knows nothing of SQLite but the first bytes of its files.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SQLITE_MAGIC = b"SQLite format 3\0"
_SIDE_FILES = ("-wal", "-shm", "-journal")


def create_folder(path: Path) -> None:
    """Create a folder and the missing ones above it, each of them 0700. Raises OSError."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process created it meanwhile
            folder.mkdir(mode=FOLDER_MODE)
            folder.chmod(FOLDER_MODE)  # the umask can only have taken bits away


def create_file(path: Path) -> None:
    """Create an empty file with mode 0600, unless the path exists. Raises OSError.

    SQLite gives the mode of a database file to its -wal, -shm and -journal.
    """
    with contextlib.suppress(FileExistsError):
        _close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))


def write_text(path: Path, text: str) -> None:
    """Write a text to a file that is created with mode 0600; one that exists is overwritten and keeps its mode."""
    create_file(path)
    path.write_text(text, encoding="utf-8")


def readable_by_others(database: Path) -> list[tuple[Path, int]]:
    """Return what group or others may read at a SQLite database: its folder and the SQLite files in it, with modes.

    The working directory and the home folder are left out: they are shared with other things.
    """
    found = []
    folder = database.resolve().parent
    for path in [folder, *sorted(folder.iterdir())]:
        try:
            mode = path.stat().st_mode
            ours = _is_sqlite(path) if stat.S_ISREG(mode) else path == folder and folder not in _shared_folders()
        except OSError:
            continue
        if ours and mode & _OTHERS:
            found.append((path, stat.S_IMODE(mode)))
    return found


def _is_sqlite(path: Path) -> bool:
    if path.name.endswith(_SIDE_FILES):
        return True
    with path.open("rb") as file:
        return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC


def _shared_folders() -> tuple[Path, ...]:
    return Path.cwd(), Path(os.path.expanduser("~")).resolve()


def _close(descriptor: int) -> None:
    try:
        if os.name == "posix":
            os.fchmod(descriptor, FILE_MODE)  # the umask can only have taken bits away
    finally:
        os.close(descriptor)
