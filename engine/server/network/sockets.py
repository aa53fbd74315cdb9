"""The listening socket of the server: a TCP port, or a Unix socket that only this user can open.

Binds and cleans up; knows no HTTP. The socket file of a killed engine is replaced; one that another
process still listens on is an error.
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
from engine.server.network.access import is_loopback

BIND_TIMEOUT = 3.0  # seconds: a restarted engine may find its old port still in use for a moment
SEND_TIMEOUT_MS = 120_000  # a client that acknowledges nothing for this long is disconnected
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket; `address` is http://127.0.0.1:8000 or unix:/run/engine.sock."""

    socket: socket.socket
    address: str


@contextlib.contextmanager
def open_listener(host: str, port: int, uds: Path | None, *, local_only: bool = False) -> Iterator[Listener]:
    """Listen on `uds`, or on `host` and `port` if it is None; remove the socket file at exit. Raises ConfigError.

    `local_only`: also if `host` is a name for an address that other machines may reach.
    """
    if uds is None:
        yield _listen_tcp(host, port, local_only=local_only)
        return
    path = uds.absolute()
    listener = _listen_unix(path)
    inode = path.stat().st_ino
    try:
        yield listener
    finally:
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:  # a successor may have put its own socket there
                path.unlink()


def _listen_tcp(host: str, port: int, *, local_only: bool) -> Listener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + BIND_TIMEOUT
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; every accepted connection inherits it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_TIMEOUT_MS)
        try:
            sock.bind((host, port))
            address = sock.getsockname()[0]
            if local_only and not is_loopback(address):
                sock.close()
                found = f"{address}, where other machines could use the model without a key"
                raise ConfigError(f"--host {host}", expected="an address of this machine alone", found=found)
            sock.listen(BACKLOG)
        except (OSError, UnicodeError) as error:
            sock.close()
            if getattr(error, "errno", None) == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            where = f"--host {host} --port {port}"
            raise ConfigError(where, expected="an address to listen on", found=_reason(error)) from error
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        return Listener(sock, f"http://{shown}:{sock.getsockname()[1]}")


def _listen_unix(path: Path) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        umask = os.umask(0o177)  # from the start, so that no other user can connect even for a moment
        try:
            sock.bind(str(path))
        finally:
            os.umask(umask)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"--uds {path}", expected="a path to listen on", found=_reason(error)) from error
    except ConfigError:
        sock.close()
        raise
    return Listener(sock, f"unix:{path}")


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
