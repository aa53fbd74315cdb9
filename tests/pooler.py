"""A transaction pooler for tests, stricter than a real one: consecutive transactions never share a server session.

As PgBouncer does in transaction mode, each transaction of any client runs in some session of one pool, and whatever
the session keeps (prepared statements, settings, locks) is not there for the next. Beyond that it records in
`violations` every statement that relies on session state, also where a real pooler would let it pass by luck.
"""

from __future__ import annotations

import asyncio
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

_NOT_ENCRYPTED = (80877103, 80877104)  # requests for TLS and GSS
_CANCEL = 80877102
_SESSION_STATE = re.compile(
    rb"\bpg_(try_)?advisory_lock(_shared)?\s*\(|^\s*(listen|prepare|deallocate)\b|^\s*set\s+(?!transaction|local)"
    rb"|with\s+hold\b|create\s+temp",
    re.IGNORECASE,
)


@dataclass
class _Session:
    """One connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes


@dataclass
class Pooler:
    """Listens on a loopback port in front of the server with this Unix socket. Use as an async context manager."""

    socket: Path
    size: int = 4
    port: int = 0
    violations: list[str] = field(default_factory=list)
    transactions: int = 0
    _sessions: list[_Session] = field(default_factory=list)
    _idle: asyncio.Queue[_Session] = field(default_factory=asyncio.Queue)
    _clients: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Pooler:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for client in tuple(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for session in self._sessions:
            session.writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._clients.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup = await _startup(reader, writer)
        if startup is None:
            return
        while len(self._sessions) < self.size:
            self._sessions.append(await self._connect(startup))
            self._idle.put_nowait(self._sessions[-1])
        writer.write(self._sessions[0].greeting)
        while True:
            first = await _message(reader)
            if first[:1] == b"X":
                return
            session = await self._idle.get()  # the one that has been idle for the longest
            self.transactions += 1
            await self._transaction(first, session, reader, writer)
            self._idle.put_nowait(session)

    async def _transaction(
        self, message: bytes, session: _Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass messages on until the server says that it is idle, outside any transaction."""
        while True:
            self._watch(message)
            session.writer.write(message)
            if message[:1] in (b"S", b"Q"):
                while (answer := await _message(session.reader))[:1] != b"Z":
                    writer.write(answer)
                writer.write(answer)
                if answer[5:6] == b"I":
                    return
            message = await _message(reader)

    def _watch(self, message: bytes) -> None:
        kind, body = message[:1], message[5:]
        if kind == b"P" and not body.startswith(b"\0"):
            self.violations.append(f"prepared statement {body.split(bytes(1))[0].decode()}")
        statement = body.split(b"\0")[1] if kind == b"P" else body if kind == b"Q" else b""
        if _SESSION_STATE.search(statement):
            self.violations.append(statement.decode(errors="replace"))

    async def _connect(self, startup: bytes) -> _Session:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(startup)
        greeting = b""
        while True:
            part = await _message(reader)
            greeting += part
            if part[:1] == b"E":
                raise ConnectionError(part.decode(errors="replace"))
            if part[:1] == b"Z":
                return _Session(reader, writer, greeting)


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
    """Read the client's startup packet; None for a request to cancel."""
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!II", head)
        if code not in _NOT_ENCRYPTED:
            rest = await reader.readexactly(length - 8)
            return None if code == _CANCEL else head + rest
        writer.write(b"N")


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
