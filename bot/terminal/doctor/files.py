"""Files and folders: who may read the secrets, what can be written, and whether there is room."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bot.settings import Settings
from bot.terminal.doctor.findings import Finding, bad, note, ok
from models.errors import DatabaseUnavailable
from models.private_files import readable_by_others
from models.urls import sqlite_path

LITTLE, TOO_LITTLE = 1 << 30, 64 << 20  # bytes that are free
_SOCKET_PATH = 107  # bytes that the path of a Unix socket may have (sun_path, without its NUL)
_ENGINE_SOCKET = "guildllama-bot-xxxxxxxx/engine.sock"


def findings(settings: Settings) -> Iterator[Finding]:
    """Findings of the settings file, the database's files, and every folder that is written to."""
    yield from _settings_file(Path(".env"))
    folders = dict(_folders(settings))
    for name, folder in folders.items():
        yield from _writable(name, folder)
    yield from _room(folders)
    database = _sqlite_file(settings)
    if database is not None and database.resolve().parent.is_dir():
        for path, mode in readable_by_others(database):
            fix = f"chmod {'700' if path.is_dir() else '600'} {path}"
            yield note("files", f"{path} has mode {mode:04o}: other users of this machine may read it", fix)
    if settings.engine_url is None:
        path = Path(tempfile.gettempdir(), _ENGINE_SOCKET)
        if len(os.fsencode(path)) > _SOCKET_PATH:
            yield bad(
                "files", f"the path of TMPDIR is too long for a socket in it: {path.parent.parent}", "TMPDIR=/tmp"
            )


def _settings_file(file: Path) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        yield bad("files", f"{file} has mode {mode:04o}: other users may read the bot's token", f"chmod 600 {file}")
    else:
        yield ok("files", f"{file} is readable by its owner alone")


def _folders(settings: Settings) -> Iterator[tuple[str, Path]]:
    """What is written to, with the setting that names it."""
    database = _sqlite_file(settings)
    if database is not None:
        yield "GUILDLLAMA_DATABASE_URL", database.resolve().parent
    if settings.engine_url is None:
        if settings.kv_dir is not None:
            yield "GUILDLLAMA_KV_DIR", Path(settings.kv_dir).expanduser().resolve()
        yield "TMPDIR", Path(tempfile.gettempdir())


def _writable(name: str, folder: Path) -> Iterator[Finding]:
    existing = _existing(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield bad("files", f"{name}: this user may not write in {existing}", f"chown $(id -un) {existing}")
    elif existing.stat().st_mode & stat.S_IWOTH and not existing.stat().st_mode & stat.S_ISVTX:
        yield bad("files", f"{name}: every user of this machine may write in {existing}", f"chmod o-w {existing}")


def _room(folders: dict[str, Path]) -> Iterator[Finding]:
    """Free room, once for each file system."""
    seen: set[int] = set()
    for name, folder in folders.items():
        existing = _existing(folder)
        device = existing.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(existing).free
        what = f"{free / (1 << 30):.1f} GiB free at {existing} ({name})"
        if free < TOO_LITTLE:
            yield bad("disk", f"{what}: replies cannot be stored", f"make room: df -h {existing}")
        elif free < LITTLE:
            yield note("disk", what, f"make room: df -h {existing}")
        else:
            yield ok("disk", what)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _sqlite_file(settings: Settings) -> Path | None:
    try:
        return sqlite_path(settings.database_url)
    except DatabaseUnavailable:  # the database's own part says so
        return None
