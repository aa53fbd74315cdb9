"""Where the server listens: a loopback port, or a Unix socket that only this user can open.

Binds and cleans up; knows nothing of what is served. A socket file that a killed engine left behind is replaced, one
that somebody still listens on is not.
"""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

BIND_PATIENCE = 3.0  # seconds: a group that restarts may find its old port not quite free
STALLED_CLIENT_MS = 120_000
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Listener:
    socket: socket.socket
    place: str
    """As people read it: http://127.0.0.1:8000 or unix:/run/engine.sock."""


@contextlib.contextmanager
def listener(host: str, port: int, uds: Path | None) -> Iterator[Listener]:
    """An open, listening socket; its file is removed at the end."""
    if uds is None:
        yield _tcp(host, port)
        return
    path = uds.absolute()
    opened = _unix(path)
    ours = path.stat().st_ino
    try:
        yield opened
    finally:
        with contextlib.suppress(OSError):
            if path.stat().st_ino == ours:  # not the socket of whoever came after us
                path.unlink()


def _tcp(host: str, port: int) -> Listener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + BIND_PATIENCE
    while True:
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by every connection: a client that takes nothing is dropped
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_CLIENT_MS)
        try:
            opened.bind((host, port))
            opened.listen(BACKLOG)
        except (OSError, UnicodeError) as error:
            opened.close()
            if getattr(error, "errno", None) == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            where = f"--host {host} --port {port}"
            raise ConfigError(where, expected="an address to listen on", found=_reason(error)) from error
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        return Listener(opened, f"http://{shown}:{opened.getsockname()[1]}")


def _unix(path: Path) -> Listener:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        before = os.umask(0o177)  # no moment at which others could connect
        try:
            opened.bind(str(path))
        finally:
            os.umask(before)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise ConfigError(f"--uds {path}", expected="a path to listen on", found=_reason(error)) from error
    except ConfigError:
        opened.close()
        raise
    return Listener(opened, f"unix:{path}")


def _remove_stale(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_socket():
        raise ConfigError(f"--uds {path}", expected="a free path", found="a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(f"--uds {path}", expected="a free path", found="a socket that another process listens on")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
