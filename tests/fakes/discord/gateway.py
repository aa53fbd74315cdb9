"""The gateway of the fake Discord: HELLO, IDENTIFY, READY, heartbeats, RESUME with replay, invalid sessions.

Knows the gateway's opcodes and close codes. Knows nothing of REST; what READY and GUILD_CREATE hold comes from outside.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

Json = dict[str, Any]

DISPATCH, HEARTBEAT, IDENTIFY, PRESENCE, RESUME, RECONNECT, INVALID, HELLO, ACK = 0, 1, 2, 3, 6, 7, 9, 10, 11
PRIVILEGED = 1 << 1 | 1 << 8 | 1 << 15
KNOWN_INTENTS = (1 << 26) - 1


@dataclass(slots=True)
class Session:
    """What Discord keeps of one IDENTIFY until the client says goodbye: all that it sent, for a RESUME."""

    id: str
    intents: int
    socket: web.WebSocketResponse | None = None
    log: list[Json] = field(default_factory=list)
    heartbeats: int = 0
    resumes: int = 0

    async def dispatch(self, event: str, data: Json) -> None:
        self.log.append({"op": DISPATCH, "t": event, "s": len(self.log) + 1, "d": data})
        await self.send(self.log[-1])

    async def send(self, payload: Json) -> None:
        if self.socket is not None and not self.socket.closed:
            await self.socket.send_str(json.dumps(payload))


class Gateway:
    """Every session of every process that logged in with the token."""

    def __init__(self, *, token: str, ready: Callable[[], Json], guilds: Callable[[], Iterable[Json]]) -> None:
        self.token = token
        self.ready = ready
        self.guilds = guilds
        self.url = ""
        self.sessions: dict[str, Session] = {}
        self.heartbeat_interval = 41.25
        self.allowed_intents = KNOWN_INTENTS & ~PRIVILEGED
        self.identifies = 0
        self.zombies = 0  # connections closed because the client had stopped sending heartbeats
        self.replay_extra = 0  # events sent once more on RESUME although the client had seen them
        self.changed = asyncio.Event()

    @property
    def connected(self) -> list[Session]:
        return [session for session in self.sessions.values() if session.socket is not None]

    async def dispatch(self, event: str, data: Json) -> None:
        for session in list(self.sessions.values()):
            await session.dispatch(event, data)

    async def close(self, code: int, *, forget: bool = False) -> None:
        """Close every connection; with `forget`, a RESUME will be answered by an invalid session."""
        for session in self.connected:
            socket, session.socket = session.socket, None
            if forget:
                del self.sessions[session.id]
            assert socket is not None
            await socket.close(code=code)

    async def send_all(self, payload: Json) -> None:
        for session in self.connected:
            await session.send(payload)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=4096)
        await socket.prepare(request)
        if request.query.get("v") != "10" or request.query.get("encoding") != "json":
            await socket.close(code=4012)
            return socket
        await socket.send_str(
            json.dumps({"op": HELLO, "d": {"heartbeat_interval": int(self.heartbeat_interval * 1000)}})
        )
        session: Session | None = None
        last_beat = time.monotonic()
        try:
            while True:
                allowed = last_beat + self.heartbeat_interval * 2 - time.monotonic()
                try:
                    message = await socket.receive(timeout=max(0.01, allowed))
                except TimeoutError:
                    self.zombies += 1
                    await socket.close(code=4009)
                    break
                if message.type is not WSMsgType.TEXT:
                    break
                payload = json.loads(message.data)
                match payload["op"]:
                    case 1:
                        last_beat = time.monotonic()
                        if session:
                            session.heartbeats += 1
                        await socket.send_str(json.dumps({"op": ACK}))
                    case 2:
                        if session is not None:
                            await socket.close(code=4005)
                            break
                        session = await self._identify(socket, payload["d"])
                        if session is None:
                            break
                    case 6:
                        session = await self._resume(socket, payload["d"]) or session
                    case 3:
                        pass
                    case _:
                        await socket.close(code=4001)
                        break
        finally:
            if session is not None and session.socket is socket:
                session.socket = None
                if socket.close_code in (1000, 1001):  # a goodbye: there is nothing to resume
                    self.sessions.pop(session.id, None)
            self._touch()
        return socket

    async def _identify(self, socket: web.WebSocketResponse, data: Json) -> Session | None:
        self.identifies += 1
        problem = 0
        if data.get("token") != self.token:
            problem = 4004
        elif not isinstance(data.get("intents"), int) or data["intents"] & ~KNOWN_INTENTS or "properties" not in data:
            problem = 4013
        elif data["intents"] & ~self.allowed_intents:
            problem = 4014
        if problem:
            await socket.close(code=problem)
            return None
        session = Session(secrets.token_hex(16), data["intents"], socket)
        self.sessions[session.id] = session
        await session.dispatch(
            "READY", {**self.ready(), "v": 10, "session_id": session.id, "resume_gateway_url": self.url}
        )
        for guild in self.guilds():
            await session.dispatch("GUILD_CREATE", guild)
        self._touch()
        return session

    async def _resume(self, socket: web.WebSocketResponse, data: Json) -> Session | None:
        session = self.sessions.get(data.get("session_id", ""))
        if data.get("token") != self.token or session is None or (data.get("seq") or 0) > len(session.log):
            await socket.send_str(json.dumps({"op": INVALID, "d": False}))
            return None
        session.socket = socket
        session.resumes += 1
        for payload in session.log[max(0, data["seq"] - self.replay_extra) :]:
            await session.send(payload)
        await session.dispatch("RESUMED", {"_trace": []})
        self._touch()
        return session

    def _touch(self) -> None:
        event, self.changed = self.changed, asyncio.Event()
        event.set()
