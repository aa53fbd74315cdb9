"""The gateway of the fake Discord: HELLO, IDENTIFY, READY, heartbeats, RESUME with replay, invalid sessions; intents.

Knows the gateway's opcodes and close codes, which intent an event needs, and when a message comes without its content.
Knows nothing of REST; the data of READY and GUILD_CREATE are passed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

Json = dict[str, Any]

GUILDS, GUILD_MEMBERS, GUILD_PRESENCES, MESSAGE_CONTENT = 1 << 0, 1 << 1, 1 << 8, 1 << 15
GUILD_MESSAGES, GUILD_MESSAGE_REACTIONS, DIRECT_MESSAGES, DIRECT_MESSAGE_REACTIONS = 1 << 9, 1 << 10, 1 << 12, 1 << 13
PRIVILEGED_INTENTS = GUILD_MEMBERS | GUILD_PRESENCES | MESSAGE_CONTENT
KNOWN_INTENTS = (1 << 26) - 1
CONTENT_FIELDS: Json = {"content": "", "attachments": [], "embeds": [], "components": []}


def needed_intent(event: str, data: Json, bot_id: int) -> int:
    """The intent without which a session does not get this event; 0 if every session gets it."""
    in_guild = "guild_id" in data
    if event.startswith("MESSAGE_REACTION_"):
        return GUILD_MESSAGE_REACTIONS if in_guild else DIRECT_MESSAGE_REACTIONS
    if event.startswith("MESSAGE_"):
        return GUILD_MESSAGES if in_guild else DIRECT_MESSAGES
    if event == "THREAD_MEMBERS_UPDATE":
        changed = [*(each["user_id"] for each in data.get("added_members", ())), *data.get("removed_member_ids", ())]
        return GUILDS if str(bot_id) in changed else GUILD_MEMBERS
    return GUILDS if event.startswith(("GUILD_", "CHANNEL_", "THREAD_")) else 0


GUILD_EVENTS = ("GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE")


def guild_of(event: str, data: Json) -> int:
    """The guild that an event is about; 0 for direct messages and for what is of no guild."""
    number = str(data.get("guild_id") or (data["id"] if event in GUILD_EVENTS else 0))
    return int(number) if number.isdecimal() else 0  # an event that a test makes unreadable


def without_content(message: Json, bot_id: int, *, in_guild: bool) -> Json:
    """The message as an application without the message content intent sees it.

    It sees its own messages, direct messages, and those that mention it. (A reply to a message of the application
    with a ping mentions it.)
    """
    mentioned = any(user["id"] == str(bot_id) for user in message.get("mentions", ()))
    if in_guild and not mentioned and message["author"]["id"] != str(bot_id):
        message = {**message, **CONTENT_FIELDS}
    if referenced := message.get("referenced_message"):
        message = {**message, "referenced_message": without_content(referenced, bot_id, in_guild=in_guild)}
    return message


class Op(enum.IntEnum):
    """The gateway's opcodes."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    PRESENCE = 3
    RESUME = 6
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


@dataclass(slots=True)
class Session:
    """One IDENTIFY and all events sent since, for a RESUME. It ends when the client closes with 1000 or 1001."""

    id: str
    intents: int
    socket: web.WebSocketResponse | None = None
    sent: list[Json] = field(default_factory=list)
    shard: tuple[int, int] = (0, 1)
    num_heartbeats: int = 0
    num_resumes: int = 0

    def has(self, guild_id: int) -> bool:
        """Whether Discord tells this session of a guild; direct messages (0) belong to the first shard."""
        index, count = self.shard
        return (guild_id >> 22) % count == index

    async def dispatch(self, event: str, data: Json) -> None:
        """Send an event with the next sequence number; without a connection, it waits for a RESUME."""
        self.sent.append({"op": Op.DISPATCH, "t": event, "s": len(self.sent) + 1, "d": data})
        await self.send(self.sent[-1])

    async def send(self, payload: Json) -> None:
        """Send a payload, if the session is connected."""
        if self.socket is not None and not self.socket.closed:
            with contextlib.suppress(ConnectionError):  # its process was killed just now
                await self.socket.send_str(json.dumps(payload))


class Gateway:
    """All sessions of all processes that logged in with the token."""

    def __init__(
        self,
        *,
        token: str,
        bot_id: int,
        ready: Callable[[], Json],
        guilds: Callable[[Callable[[int], bool]], Iterable[Json]],
    ) -> None:
        """`guilds`: the data of those guilds whose id the function takes."""
        self.token = token
        self.bot_id = bot_id
        self.ready = ready
        self.guilds = guilds
        self.url = ""
        self.sessions: dict[str, Session] = {}
        self.heartbeat_interval = 41.25
        self.allowed_intents = KNOWN_INTENTS & ~PRIVILEGED_INTENTS  # add MESSAGE_CONTENT to allow it
        self.num_identifies = 0
        self.num_zombies = 0  # connections closed because the client had stopped sending heartbeats
        self.num_replayed_again = 0  # events that a RESUME replays although the client had received them
        self.interaction_receivers: list[Session] | None = None  # None: every session gets the interactions
        self.message_receivers: list[Session] | None = None  # the same for new messages
        self.changed = asyncio.Event()

    @property
    def connected(self) -> list[Session]:
        """The sessions that have a connection now."""
        return [session for session in self.sessions.values() if session.socket is not None]

    async def dispatch(self, event: str, data: Json) -> None:
        """Send an event to every session whose intents include it, or to the receivers that are given for it."""
        needed = needed_intent(event, data, self.bot_id)
        chosen = {"INTERACTION_CREATE": self.interaction_receivers, "MESSAGE_CREATE": self.message_receivers}
        receivers = chosen.get(event)
        for session in list(self.sessions.values()) if receivers is None else receivers:
            if session.intents & needed != needed or not session.has(guild_of(event, data)):
                continue
            shown = data
            if event in ("MESSAGE_CREATE", "MESSAGE_UPDATE") and not session.intents & MESSAGE_CONTENT:
                shown = without_content(data, self.bot_id, in_guild="guild_id" in data)
            await session.dispatch(event, shown)

    async def close(self, code: int, *, forget: bool = False) -> None:
        """Close every connection. `forget`: a RESUME then gets INVALID_SESSION."""
        for session in self.connected:
            socket, session.socket = session.socket, None
            if forget:
                del self.sessions[session.id]
            assert socket is not None
            await socket.close(code=code)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection."""
        socket = web.WebSocketResponse(max_msg_size=4096)
        await socket.prepare(request)
        if request.query.get("v") != "10" or request.query.get("encoding") != "json":
            await socket.close(code=4012)
            return socket
        await socket.send_str(
            json.dumps({"op": Op.HELLO, "d": {"heartbeat_interval": int(self.heartbeat_interval * 1000)}})
        )
        session: Session | None = None
        last_heartbeat = time.monotonic()
        try:
            while True:
                remaining = last_heartbeat + self.heartbeat_interval * 2 - time.monotonic()
                try:
                    message = await socket.receive(timeout=max(0.01, remaining))
                except TimeoutError:
                    self.num_zombies += 1
                    await socket.close(code=4009)
                    break
                if message.type is not WSMsgType.TEXT:
                    break
                payload = json.loads(message.data)
                match payload["op"]:
                    case Op.HEARTBEAT:
                        last_heartbeat = time.monotonic()
                        if session:
                            session.num_heartbeats += 1
                        await socket.send_str(json.dumps({"op": Op.HEARTBEAT_ACK}))
                    case Op.IDENTIFY:
                        if session is not None:
                            await socket.close(code=4005)
                            break
                        session = await self._identify(socket, payload["d"])
                        if session is None:
                            break
                    case Op.RESUME:
                        session = await self._resume(socket, payload["d"]) or session
                    case Op.PRESENCE:
                        pass
                    case _:
                        await socket.close(code=4001)
                        break
        finally:
            if session is not None and session.socket is socket:
                session.socket = None
                if socket.close_code in (1000, 1001):  # the client ended its session
                    self.sessions.pop(session.id, None)
            self._notify()
        return socket

    async def _identify(self, socket: web.WebSocketResponse, data: Json) -> Session | None:
        self.num_identifies += 1
        close_code = 0
        shard = data.get("shard", [0, 1])
        if data.get("token") != self.token:
            close_code = 4004
        elif not isinstance(data.get("intents"), int) or data["intents"] & ~KNOWN_INTENTS or "properties" not in data:
            close_code = 4013
        elif data["intents"] & ~self.allowed_intents:
            close_code = 4014
        elif not 0 <= shard[0] < shard[1]:
            close_code = 4010
        if close_code:
            await socket.close(code=close_code)
            return None
        session = Session(secrets.token_hex(16), data["intents"], socket, shard=(shard[0], shard[1]))
        self.sessions[session.id] = session
        ready = self.ready()
        await session.dispatch(
            "READY",
            {
                **ready,
                "guilds": [guild for guild in ready["guilds"] if session.has(int(guild["id"]))],
                "v": 10,
                "session_id": session.id,
                "resume_gateway_url": self.url,
                "shard": list(session.shard),
            },
        )
        for guild in self.guilds(session.has):
            await session.dispatch("GUILD_CREATE", guild)
        self._notify()
        return session

    async def _resume(self, socket: web.WebSocketResponse, data: Json) -> Session | None:
        session = self.sessions.get(data.get("session_id", ""))
        if data.get("token") != self.token or session is None or (data.get("seq") or 0) > len(session.sent):
            await socket.send_str(json.dumps({"op": Op.INVALID_SESSION, "d": False}))
            return None
        session.socket = socket
        session.num_resumes += 1
        for payload in session.sent[max(0, data["seq"] - self.num_replayed_again) :]:
            await session.send(payload)
        await session.dispatch("RESUMED", {"_trace": []})
        self._notify()
        return session

    def _notify(self) -> None:
        event, self.changed = self.changed, asyncio.Event()
        event.set()
