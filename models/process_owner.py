"""Names the process that a pending turn belongs to, and tells whether it still lives.

A name is host/pid/start/nonce. On this host a dead process is known at once, so a restart tells its users within a
second; a process of another host can only be judged by the turn's age. Knows no tables.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path

_open: set[str] = set()


def register_owner() -> str:
    """A name for one opened Database of this process, alive until `close_owner`."""
    name = f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}/{secrets.token_hex(4)}"
    _open.add(name)
    return name


def release_owner(name: str) -> None:
    _open.discard(name)


def owner_is_dead(name: str | None) -> bool:
    """True only when it is certain; None and other hosts are not."""
    if name is None:
        return False
    host, _, rest = name.partition("/")
    pid_text, _, start_and_nonce = rest.partition("/")
    if host != socket.gethostname() or not pid_text.isdigit() or sys.platform == "win32":
        return False
    pid = int(pid_text)
    if pid == os.getpid():
        return name not in _open
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return start_and_nonce.partition("/")[0] != _started(pid)


def _started(pid: int) -> str:
    """When the process began, in clock ticks since boot: tells a reused pid. Empty where /proc does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
