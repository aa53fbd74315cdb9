"""The private folder of the engine's socket and its launcher's files, and the removal of folders that dead bots left.

A bot holds a lock on its folder (flock). The kernel releases the lock at the bot's death, whatever kills it, so a
folder whose lock is free has no bot. Removed are only folders of this user with our prefix in the temporary directory,
and no symbolic link is followed. On a file system without such locks nothing is removed. Does not know what is in a
folder, except for those of versions before 0.3, which held no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

PREFIX = "guildllama-bot-"
_WITHOUT_LOCK = re.compile(r"guildllama-[a-z0-9_]{8}")  # the folders of versions before 0.3
_SECONDS_WITHOUT_LOCK = 3600.0  # how long such a folder is left alone

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class EngineFolder:
    """A new folder that only this user can enter. Locked until it is removed or this process ends."""

    def __init__(self) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))  # mode 0700
            with contextlib.suppress(FileNotFoundError):
                self._lock: int | None = os.open(self.path, _OPEN_FOLDER)
                if self._is_locked(self._lock) and _is_at(self.path, self._lock):
                    return
                os.close(self._lock)
            # Another bot that removes leftovers was faster than our lock. It removes this one.

    @staticmethod
    def _is_locked(folder: int) -> bool:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: nobody can take it for a leftover either
            return True
        return True

    def remove(self) -> None:
        """Remove it with all that is in it, and release the lock. Idempotent."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def remove_leftovers() -> int:
    """Remove the folders that bots of this user left when they were killed. Returns how many."""
    removed = 0
    directory = Path(tempfile.gettempdir())
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):  # not ours to enter, no folder, in use, or just removed by another bot
                if name.startswith(PREFIX):
                    _remove_unlocked(directory / name)
                elif _WITHOUT_LOCK.fullmatch(name):
                    _remove_older(directory / name)
                else:
                    continue
                removed += 1
    if removed:
        log.info("removed temporary folders of bots that were killed", count=removed)
    return removed


def _remove_unlocked(path: Path) -> None:
    """Remove a folder if nobody holds its lock. Raises OSError if it must stay."""
    with _opened(path) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(path, folder):
            raise FileNotFoundError(path)
        # Through the descriptor, so that whatever takes the folder's name meanwhile is never emptied.
        for name in os.listdir(folder):
            try:
                os.unlink(name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):  # Linux and macOS say it differently
                shutil.rmtree(name, dir_fd=folder)
        path.rmdir()


def _remove_older(path: Path) -> None:
    """Remove a folder of a version without locks, if it holds a socket at most, and nobody listens on that."""
    with _opened(path) as folder:
        age = time.time() - os.fstat(folder).st_mtime
        if age < _SECONDS_WITHOUT_LOCK or set(os.listdir(folder)) - {"engine.sock"}:
            raise FileExistsError(path)
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            probe.settimeout(1.0)
            probe.connect(str(path / "engine.sock"))
            raise FileExistsError(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("engine.sock", dir_fd=folder)
        path.rmdir()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The folder's descriptor. Raises OSError for a link, for what is no folder, and for another user's."""
    folder = os.open(path, _OPEN_FOLDER)
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            raise PermissionError(path)
        yield folder
    finally:
        os.close(folder)


def _is_at(path: Path, folder: int) -> bool:
    """Whether this path still names the open folder."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.lstat(path), os.fstat(folder))
    return False
