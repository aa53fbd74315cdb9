"""The REST API of the fake Discord: its state, and the rules that hold for every path.

These are authorisation, rate limits, request bodies by the OpenAPI file, interaction tokens that expire after 15
minutes, and planned faults. What each path does is in `tests.fakes.discord.routes`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.fakes.discord.rules import (
    ApiError,
    Bucket,
    Fault,
    Request,
    path_template,
    rate_limit_response,
    schema_violations,
)
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

TOKEN_LIFETIME = 900.0
Handler = Callable[["Rest", web.Request, Json], Awaitable[web.StreamResponse]]


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON response with exactly Discord's content type: discord.py parses no other as JSON."""
    headers = {"Via": "1.1 google", **(headers or {})}
    if body is None:
        return web.Response(status=status, headers=headers)
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json", headers=headers)


class Rest:
    """The state that requests change, and the way of each request through the rules to its handler."""

    def __init__(self, token: str, bot: User, routes: dict[tuple[str, str], Handler]) -> None:
        self.token = token
        self.routes = routes
        self.bot = bot
        self.gateway_url = ""
        self.clock_offset = 0.0
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
        self.num_rate_limited = 0
        self.changed = asyncio.Event()

    def now(self) -> float:
        """Seconds since the epoch, as moved by `FakeDiscord.advance`."""
        return time.time() + self.clock_offset

    def notify(self) -> None:
        """Wake those who wait for `changed`."""
        event, self.changed = self.changed, asyncio.Event()
        event.set()

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
        entry.status = response.status
        if response.status >= 400 and isinstance(response, web.Response) and response.body:
            entry.code = json.loads(bytes(response.body)).get("code", 0)  # type: ignore[arg-type]
        self.notify()
        if fault and fault.lose == "response" and request.transport:
            request.transport.abort()
        return response

    async def _respond(
        self, request: web.Request, entry: Request, files: dict[str, Attachment], fault: Fault | None
    ) -> web.StreamResponse:
        if fault:
            await asyncio.sleep(fault.delay)
            if fault.lose == "request" and request.transport:
                request.transport.abort()
                return json_response(None, 599)
            if fault.retry_after is not None:
                return self._rate_limited(fault.retry_after, {})
            if fault.status:
                return json_response(ApiError(fault.status, fault.code).body, fault.status)
        bucket = self._bucket(entry)
        wait = bucket.take() if bucket else 0.0
        headers = bucket.headers() if bucket else {}
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
            return json_response(error.body, error.status, headers)

    def _rate_limited(self, wait: float, headers: dict[str, str]) -> web.Response:
        self.num_rate_limited += 1
        body, more = rate_limit_response(wait)
        return json_response(body, 429, {**headers, **more})

    def _bucket(self, entry: Request) -> Bucket | None:
        if entry.path.endswith("/callback"):
            return None  # callbacks are not rate-limited
        kind = entry.path.split("/")[1].removesuffix("s")
        limit, per = self.limits.get(kind, self.limits["other"])
        key = "/".join(entry.path.split("/")[:4]) if kind in self.limits else f"{entry.method} {entry.template}"
        return self.buckets.setdefault(key, Bucket(f"{kind}-{entry.method}", limit, per))

    def _check_request(self, request: web.Request, entry: Request) -> None:
        if not entry.path.startswith(("/webhooks/", "/interactions/")):
            if request.headers.get("Authorization") != f"Bot {self.token}":
                raise ApiError(401, 0)
            if "DiscordBot" not in request.headers.get("User-Agent", ""):
                raise ApiError(400, 0)
        if entry.body is not None and (found := list(schema_violations(entry.method, entry.template, entry.body))):
            self.violations.extend(found)
            raise ApiError(400, 50035, errors={"_errors": [{"code": "INVALID", "message": found[0]}]})

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────

    def update_message(self, message: Message, body: Json, files: dict[str, Attachment]) -> Message:
        """Apply a request body to a message. Raises ApiError for duplicate custom ids and for an empty message."""
        if "content" in body:
            message.content = (body["content"] or "").strip()
        if "components" in body:
            message.components = body["components"] or []
            ids = [button["custom_id"] for button in message.buttons() if "custom_id" in button]
            if len(set(ids)) != len(ids):
                raise ApiError(400, 50035)
        if "attachments" in body or files:
            kept = {str(index): old for index, old in enumerate(message.attachments)}
            named = [
                str(attachment["id"]) for attachment in body.get("attachments", []) if "filename" not in attachment
            ]
            message.attachments = [kept[name] for name in named if name in kept] + list(files.values())
        message.flags &= ~LOADING
        message.allowed_mentions = body.get("allowed_mentions")
        if not message.content and not message.attachments and not message.components:
            raise ApiError(400, 50006)
        message.edits.append((self.now(), message.content))
        self.messages[message.id] = message
        return message

    def create_message(
        self, channel: Channel, body: Json, files: dict[str, Attachment], *, flags: int | None = None
    ) -> Message:
        message = Message(channel, self.bot, flags=body.get("flags") or 0 if flags is None else flags)
        return self.update_message(message, body, files)

    # ── interactions ─────────────────────────────────────────────────────────────────────────────────────────────

    def interaction_by_token(self, token: str) -> Interaction:
        """The interaction whose responses this token may change. Raises ApiError if it has none yet or is too old."""
        found = next((each for each in self.interactions.values() if each.token == token), None)
        if found is None:
            raise ApiError(404, 10015)
        if self.now() - found.created_at > TOKEN_LIFETIME:
            raise ApiError(401, 50027)
        if found.callback_type is None:
            raise ApiError(404, 10015)
        return found

    def find_message(self, interaction: Interaction, message_id: str) -> Message:
        """A response of this interaction by id, or "@original". Raises ApiError if there is none or it was deleted."""
        if message_id == "@original":
            message = interaction.original
        else:
            responses = [*interaction.followups, interaction.original]
            message = next((each for each in responses if each and str(each.id) == message_id), None)
        if message is None or message.deleted:
            raise ApiError(404, 10008)
        return message


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
