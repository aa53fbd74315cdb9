"""The REST API of the fake Discord: its state, and the rules that hold for every path.

These are authorisation, rate limits, request bodies by the OpenAPI file, and planned faults. What each path does is in
`tests.fakes.discord.routes` and the modules that it names.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.fakes.discord.cdn import Cdn
from tests.fakes.discord.forms import check_files, check_message, number_components
from tests.fakes.discord.gateway import MESSAGE_CONTENT, Gateway, without_content
from tests.fakes.discord.messages import (
    COMPONENTS_V2,
    LOADING,
    SUPPRESS_EMBEDS,
    SUPPRESS_NOTIFICATIONS,
    Attachment,
    Interaction,
    Message,
)
from tests.fakes.discord.rules import (
    INVALID_LIMIT,
    INVALID_PERIOD,
    LIMITS,
    ApiError,
    Bucket,
    Fault,
    Request,
    path_template,
    rate_limit_response,
    route_kind,
    schema_violations,
)
from tests.fakes.discord.state import Channel, Directory, Guild, Json, User

Handler = Callable[["Rest", web.Request, Json], Awaitable[web.StreamResponse]]
SETTABLE_FLAGS = SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS | COMPONENTS_V2


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON response with exactly Discord's content type: discord.py parses no other as JSON."""
    headers = {"Via": "1.1 google", **(headers or {})}
    if body is None:
        return web.Response(status=status, headers=headers)
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json", headers=headers)


class Rest:
    """The state that requests change, and the way of each request through the rules to its handler."""

    def __init__(
        self,
        token: str,
        bot: User,
        routes: dict[tuple[str, str], Handler],
        gateway: Gateway,
        cdn: Cdn,
    ) -> None:
        self.token = token
        self.routes = routes
        self.bot = bot
        self.gateway = gateway
        self.cdn = cdn
        self.clock_offset = 0.0
        self.directory = Directory(bot, users={bot.id: bot})
        self.users = self.directory.users
        self.guilds: dict[int, Guild] = {}
        self.channels = self.directory.channels
        self.interactions: dict[int, Interaction] = {}
        self.interactions_by_token: dict[str, Interaction] = {}
        self.max_concurrency = 1  # sessions that may be opened at once
        self.messages: dict[int, Message] = self.directory.messages
        self.webhooks: dict[int, Any] = {}
        self.nonces: dict[tuple[int, str], tuple[float, Message]] = {}
        self.commands: list[Json] = []
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.faults: list[Fault] = []
        self.limits = dict(LIMITS)
        self.buckets: dict[str, Bucket] = {}
        self.num_rate_limited = 0
        self.num_typing: dict[int, int] = {}  # by channel
        self._invalid_at: deque[float] = deque()
        self.changed = asyncio.Event()

    def now(self) -> float:
        """Seconds since the epoch, as moved by `FakeDiscord.advance`."""
        return time.time() + self.clock_offset

    def notify(self) -> None:
        """Wake those who wait for `changed`."""
        event, self.changed = self.changed, asyncio.Event()
        event.set()

    @property
    def num_invalid(self) -> int:
        """Responses of 401, 403 and 429 in the last ten minutes. At 10,000 Discord bans the address."""
        while self._invalid_at and self._invalid_at[0] <= self.now() - INVALID_PERIOD:
            self._invalid_at.popleft()
        return len(self._invalid_at)

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one request and record it in `requests`."""
        path = request.path.removeprefix("/api/v10")
        template = path_template(request.method, path)
        if template is None:
            self.violations.append(f"{request.method} {path}: no such path")
            return json_response({"message": "404: Not Found", "code": 0}, 404)
        body, files = await _read(request)
        entry = Request(self.now(), request.method, path, template, dict(request.query), body, list(files))
        self.requests.append(entry)
        fault = next((fault for fault in self.faults if fault.matches(request.method, path)), None)
        response = await self._respond(request, entry, files, fault)
        if fault and fault.lose == "answer":
            response = json_response(ApiError(fault.status, fault.code).body, fault.status)
        entry.status = response.status
        if response.status >= 400 and isinstance(response, web.Response) and response.content_type.endswith("json"):
            entry.code = json.loads(bytes(response.body or b"{}")).get("code", 0)  # type: ignore[arg-type]
        if response.status in (401, 403, 429):
            self._invalid_at.append(self.now())
        self.notify()
        if fault and fault.lose == "response" and request.transport:
            request.transport.abort()
        return response

    async def _respond(
        self, request: web.Request, entry: Request, files: dict[str, Attachment], fault: Fault | None
    ) -> web.StreamResponse:
        if self.num_invalid >= INVALID_LIMIT:
            return web.Response(status=429, text="error code: 1015")  # Cloudflare's, without `Via`
        if fault:
            await asyncio.sleep(fault.delay)
            if fault.lose == "request" and request.transport:
                request.transport.abort()
                return json_response(None, 599)
            if fault.retry_after is not None:
                return self._rate_limited(fault.retry_after, {})
            if fault.status and not fault.lose:
                return json_response(ApiError(fault.status, fault.code).body, fault.status)
        headers: dict[str, str] = {}
        if not entry.path.endswith("/callback"):  # callbacks are not rate-limited
            kind = route_kind(entry.method, entry.template)
            if kind != "webhook" and (wait := self.bucket("global").take()) > 0:
                return self._rate_limited(wait, {}, scope="global")
            major = entry.path.split("/")[3 if kind == "webhook" else 2] if kind != "other" else entry.template
            bucket = self.bucket(kind, f"{entry.method if kind == 'other' else ''}{major}")
            wait = bucket.take()
            headers = bucket.headers()
            if wait > 0:
                return self._rate_limited(wait, headers)
        try:
            self._check_request(request, entry)
            found = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", entry.template), entry.path)
            assert found
            handler = self.routes[entry.method, entry.template]
            response = await handler(self, request, {**found.groupdict(), "body": entry.body, "files": files})
            response.headers.update(headers)
            return response
        except ApiError as error:
            if error.violation:
                self.violations.append(f"{entry.method} {entry.template}: {error.violation}")
            if error.status == 429:
                return self._rate_limited(error.body["retry_after"], headers, code=error.body["code"])
            return json_response(error.body, error.status, headers)

    def bucket(self, kind: str, major: str = "") -> Bucket:
        """The bucket of a kind of route and a channel or token."""
        limit, per = self.limits[kind]
        return self.buckets.setdefault(f"{kind}:{major}", Bucket(f"{kind}-{major[:4]}", limit, per))

    def _rate_limited(
        self, wait: float, headers: dict[str, str], *, scope: str = "user", code: int = 0
    ) -> web.Response:
        self.num_rate_limited += 1
        body, more = rate_limit_response(wait, scope=scope)
        return json_response({**body, "code": code} if code else body, 429, {**headers, **more})

    def _check_request(self, request: web.Request, entry: Request) -> None:
        if not entry.path.startswith("/interactions/") and "{webhook_token}" not in entry.template:
            if request.headers.get("Authorization") != f"Bot {self.token}":
                raise ApiError(401, 0)
            if "DiscordBot" not in request.headers.get("User-Agent", ""):
                raise ApiError(400, 0)
        if entry.body is not None and (found := schema_violations(entry.method, entry.template, entry.body)):
            self.violations.extend(found)
            raise ApiError(400, 50035, errors={"_errors": [{"code": "INVALID", "message": found[0]}]})

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────

    def create_message(
        self, channel: Channel, body: Json, files: dict[str, Attachment], *, flags: int = 0, **fields: Any
    ) -> Message:
        """A new message of the bot. `fields`: those of `Message` that the body does not decide."""
        message = Message(channel, self.bot, flags=flags, created_at=self.now(), **fields)
        return self.update_message(message, body, files)

    def update_message(self, message: Message, body: Json, files: dict[str, Attachment]) -> Message:
        """Apply a request body to a message, in full or, with ApiError, not at all."""
        content, embeds, components = message.content, message.embeds, message.components
        if "content" in body:
            content = (body["content"] or "").strip()
        if "embeds" in body:
            embeds = body["embeds"] or []
        if "components" in body:
            components = number_components(body["components"] or [])
        check_files(files, message.channel.guild.file_limit if message.channel.guild else 10 * 2**20)
        attachments = _kept_and_new(message, body, files)
        flags = message.flags & ~(LOADING | SUPPRESS_EMBEDS) | (body.get("flags") or 0) & SETTABLE_FLAGS
        check_message(content, embeds, components, attachments, v2=bool(flags & COMPONENTS_V2))
        message.content, message.embeds, message.components = content, embeds, components
        message.attachments, message.flags = attachments, flags
        message.allowed_mentions = body.get("allowed_mentions")
        message.find_mentions(self.users)
        if message.reference and (message.allowed_mentions or {}).get("replied_user", message.allowed_mentions is None):
            message.mentions = list(dict.fromkeys([*message.mentions, message.reference.author]))
        message.edits.append((self.now(), message.content))
        self.keep(message)
        return message

    def keep(self, message: Message) -> None:
        """Make a message known, and its attachments reachable."""
        for attachment in message.attachments:
            if attachment.id not in self.cdn.attachments:
                attachment.ephemeral = message.ephemeral
                self.cdn.host(attachment, message.channel.id)
        if message.id not in self.messages:
            message.channel.last_message_id = message.id
            message.channel.num_messages += 1
        self.messages[message.id] = message

    # ── what the bot may see ─────────────────────────────────────────────────────────────────────────────────────

    def reachable(self, channel: Channel) -> bool:
        """Whether the bot can see a channel: in a guild it has joined, or its own direct messages."""
        if channel.guild is None:
            return channel.recipient is not None
        return channel.guild.joined and not channel.deleted and channel.guild.bot_sees(channel)

    def as_read(self, message: Message) -> Json:
        """A message as the bot gets it in a response, without its content where the intent is not allowed."""
        data = message.json()
        if self.gateway.allowed_intents & MESSAGE_CONTENT or message.interaction:
            return data
        return without_content(data, self.bot.id, in_guild=message.channel.guild is not None)

    async def tell(self, event: str, message: Message) -> None:
        """Send MESSAGE_CREATE, MESSAGE_UPDATE or MESSAGE_DELETE to the sessions that may know of the message.

        Discord sends ephemeral messages as if they were direct ones: with that intent, without guild and member.
        """
        if not message.ephemeral and not self.reachable(message.channel):
            return
        data = message.json(event=not message.ephemeral)
        if event == "MESSAGE_DELETE":
            data = {key: data[key] for key in ("id", "channel_id", "guild_id") if key in data}
        await self.gateway.dispatch(event, data)
        self.notify()


def _kept_and_new(message: Message, body: Json, files: dict[str, Attachment]) -> list[Attachment]:
    """The attachments after a request: those it names of the old ones, then the uploaded files in their order."""
    if "attachments" not in body and not files:
        return message.attachments
    kept = {str(old.id): old for old in message.attachments}
    uploaded = {re.sub(r"\D", "", name): file for name, file in files.items()}
    named = [str(each["id"]) for each in body.get("attachments") or ()]
    for each in body.get("attachments") or ():
        if (file := uploaded.get(str(each["id"]))) is not None:
            file.description = each.get("description")
    if "attachments" not in body and message.edits:
        return [*message.attachments, *files.values()]  # an edit that names no attachments keeps all
    return [kept[name] for name in named if name in kept] + list(files.values())


async def _read(request: web.Request) -> tuple[Any, dict[str, Attachment]]:
    """The JSON body and the files of a request, multipart or not."""
    files: dict[str, Attachment] = {}
    if request.content_type == "multipart/form-data":
        body = None
        async for part in await request.multipart():
            if part.name == "payload_json":
                body = json.loads(await part.text())
            elif part.name and part.filename:
                files[part.name] = Attachment(part.filename, bytes(await part.read()))
        return body, files
    raw = await request.read()
    return (json.loads(raw) if raw else None), files
