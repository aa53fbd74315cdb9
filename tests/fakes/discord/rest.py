"""The REST half of the fake Discord: what becomes of any request, and the state that the handlers work on.

Keeps the rules that hold for every path: authorisation, rate limits, request bodies as the OpenAPI file describes them,
a token that lives for 15 minutes, planned faults. What each path does stands in `tests.fakes.discord.routes`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.fakes.discord.rules import Bucket, Fault, Refused, Request, breaches, operation_of, too_many
from tests.fakes.discord.state import (
    LOADING,
    Attachment,
    Channel,
    Guild,
    Interaction,
    Json,
    Message,
    User,
)

TOKEN_SECONDS = 900.0
Handler = Callable[["Rest", web.Request, Json], Awaitable[web.StreamResponse]]


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """JSON with exactly the content type that Discord sends: discord.py takes no other one for JSON."""
    headers = {"Via": "1.1 google", **(headers or {})}
    if body is None:
        return web.Response(status=status, headers=headers)
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json", headers=headers)


class Rest:
    """The state that REST works on, and the handlers."""

    def __init__(self, token: str, bot: User, routes: dict[tuple[str, str], Handler]) -> None:
        self.token = token
        self.routes = routes
        self.bot = bot
        self.gateway_url = ""
        self.offset = 0.0
        self.guilds: dict[int, Guild] = {}
        self.channels: dict[int, Channel] = {}
        self.interactions: dict[int, Interaction] = {}
        self.messages: dict[int, Message] = {}
        self.commands: list[Json] = []
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.faults: list[Fault] = []
        self.limits = {"webhook": (5, 2.0), "channel": (5, 5.0), "other": (50, 1.0)}
        self.buckets: dict[str, Bucket] = {}
        self.too_many = 0
        self.changed = asyncio.Event()

    def now(self) -> float:
        return time.time() + self.offset

    def touch(self) -> None:
        event, self.changed = self.changed, asyncio.Event()
        event.set()

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api/v10")
        template = operation_of(request.method, path)
        if template is None:
            self.violations.append(f"{request.method} {path}: no such path")
            return answer({"message": "404: Not Found", "code": 0}, 404)
        body, files = await _read(request)
        entry = Request(self.now(), request.method, path, template, dict(request.query), body, list(files))
        self.requests.append(entry)
        fault = next((fault for fault in self.faults if fault.meets(request.method, path)), None)
        response = await self._answer(request, entry, files, fault)
        entry.status = response.status
        if response.status >= 400 and isinstance(response, web.Response) and response.body:
            entry.code = json.loads(bytes(response.body)).get("code", 0)  # type: ignore[arg-type]
        self.touch()
        if fault and fault.lose == "answer" and request.transport:
            request.transport.abort()
        return response

    async def _answer(
        self, request: web.Request, entry: Request, files: dict[str, Attachment], fault: Fault | None
    ) -> web.StreamResponse:
        if fault:
            await asyncio.sleep(fault.delay)
            if fault.lose == "request" and request.transport:
                request.transport.abort()
                return answer(None, 599)
            if fault.retry_after is not None:
                return self._limited(fault.retry_after, {})
            if fault.status:
                return answer(Refused(fault.status, fault.code).body, fault.status)
        bucket = self._bucket(entry)
        wait = bucket.take() if bucket else 0.0
        headers = bucket.headers() if bucket else {}
        if wait > 0:
            return self._limited(wait, headers)
        try:
            self._check(request, entry)
            found = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", entry.template), entry.path)
            assert found
            handler = self.routes[entry.method, entry.template]
            response = await handler(self, request, {**found.groupdict(), "body": entry.body, "files": files})
            response.headers.update(headers)
            return response
        except Refused as refusal:
            return answer(refusal.body, refusal.status, headers)

    def _limited(self, wait: float, headers: dict[str, str]) -> web.Response:
        self.too_many += 1
        body, more = too_many(wait)
        return answer(body, 429, {**headers, **more})

    def _bucket(self, entry: Request) -> Bucket | None:
        if entry.path.endswith("/callback"):
            return None  # acknowledgements have no limit worth speaking of
        kind = entry.path.split("/")[1].removesuffix("s")
        limit, per = self.limits.get(kind, self.limits["other"])
        key = "/".join(entry.path.split("/")[:4]) if kind in self.limits else f"{entry.method} {entry.template}"
        return self.buckets.setdefault(key, Bucket(f"{kind}-{entry.method}", limit, per))

    def _check(self, request: web.Request, entry: Request) -> None:
        if not entry.path.startswith(("/webhooks/", "/interactions/")):
            if request.headers.get("Authorization") != f"Bot {self.token}":
                raise Refused(401, 0)
            if "DiscordBot" not in request.headers.get("User-Agent", ""):
                raise Refused(400, 0)
        if entry.body is not None and (found := list(breaches(entry.method, entry.template, entry.body))):
            self.violations.extend(found)
            raise Refused(400, 50035, errors={"_errors": [{"code": "INVALID", "message": found[0]}]})

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, message: Message, body: Json, files: dict[str, Attachment]) -> Message:
        """Put what a request says into a message, new or old."""
        if "content" in body:
            message.content = (body["content"] or "").strip()
        if "components" in body:
            message.components = body["components"] or []
            ids = [button["custom_id"] for button in message.buttons() if "custom_id" in button]
            if len(set(ids)) != len(ids):
                raise Refused(400, 50035)
        if "attachments" in body or files:
            kept = {str(index): old for index, old in enumerate(message.attachments)}
            named = [
                str(attachment["id"]) for attachment in body.get("attachments", []) if "filename" not in attachment
            ]
            message.attachments = [kept[name] for name in named if name in kept] + list(files.values())
        message.flags &= ~LOADING
        message.allowed_mentions = body.get("allowed_mentions")
        if not message.content and not message.attachments and not message.components:
            raise Refused(400, 50006)
        message.edits.append((self.now(), message.content))
        self.messages[message.id] = message
        return message

    def create(
        self, channel: Channel, body: Json, files: dict[str, Attachment], *, flags: int | None = None
    ) -> Message:
        message = Message(channel, self.bot, flags=body.get("flags") or 0 if flags is None else flags)
        return self.write(message, body, files)

    # ── interactions ─────────────────────────────────────────────────────────────────────────────────────────────

    def by_token(self, token: str) -> Interaction:
        found = next((each for each in self.interactions.values() if each.token == token), None)
        if found is None:
            raise Refused(404, 10015)
        if self.now() - found.created > TOKEN_SECONDS:
            raise Refused(401, 50027)
        if found.acknowledged is None:
            raise Refused(404, 10015)
        return found

    def message_of(self, interaction: Interaction, message_id: str) -> Message:
        if message_id == "@original":
            message = interaction.original
        else:
            mine = [*interaction.followups, interaction.original]
            message = next((each for each in mine if each and str(each.id) == message_id), None)
        if message is None or message.deleted:
            raise Refused(404, 10008)
        return message


async def _read(request: web.Request) -> tuple[Any, dict[str, Attachment]]:
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
