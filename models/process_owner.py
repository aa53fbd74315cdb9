"""Identifies the process that a pending turn belongs to, so that turns of a crashed process can be recognised.

Each turn stores the owner `host/pid/start/nonce` of the Database that generates its reply. After a restart, a pending
turn is known to be abandoned if its owner is on this host and the pid does not exist, or belongs to a process with
another start time (a reused pid), or is our own but that Database was closed. An owner on another host cannot be
checked here: its heartbeat tells (models/queries/replies/processes.py), and the age of its turns. Knows no tables.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path

_live_owners: set[str] = set()


def register_owner() -> str:
    """Return a new owner for one Database of this process; it counts as alive until `release_owner`."""
    name = f"{socket.gethostname()}/{os.getpid()}/{_start_ticks(os.getpid())}/{secrets.token_hex(4)}"
    _live_owners.add(name)
    return name


def release_owner(name: str) -> None:
    """Declare the owner dead: its Database was closed."""
    _live_owners.discard(name)


def owner_is_alive(name: str | None) -> bool | None:
    """Whether the owner is alive, as far as this host can tell. None for None, for other hosts and on Windows."""
    if name is None:
        return None
    host, _, rest = name.partition("/")
    pid_text, _, start_and_nonce = rest.partition("/")
    if host != socket.gethostname() or not pid_text.isdigit() or sys.platform == "win32":
        return None
    pid = int(pid_text)
    if pid == os.getpid():
        return name in _live_owners
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return start_and_nonce.partition("/")[0] == _start_ticks(pid)


def _start_ticks(pid: int) -> str:
    """Start time of the process in clock ticks since boot (field 22 of /proc/PID/stat), or "" without /proc.

    "ended" for a process that was killed and that its parent has not waited for: it still has its entry.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "ended" if fields[0] in ("Z", "X") else fields[19]
