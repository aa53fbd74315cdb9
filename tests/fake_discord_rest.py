"""The REST half of the fake Discord: interactions, their answers, channel messages, commands.

Keeps Discord's rules: an acknowledgement within 3 s and only once, a token that lives for 15 minutes, visibility fixed
by the acknowledgement, 2,000 characters, rate limits by route, request bodies as the OpenAPI file describes them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.fake_discord_rules import Bucket, Fault, Refused, Request, breaches, operation_of, too_many
from tests.fake_discord_state import (
    EPHEMERAL,
    LOADING,
    Attachment,
    Channel,
    Guild,
    Interaction,
    Json,
    Message,
    User,
    snowflake,
)

ACK_SECONDS, TOKEN_SECONDS = 3.0, 900.0
CALLBACKS = {2: {4, 5, 9}, 3: {4, 5, 6, 7, 9}, 4: {8}, 5: {4, 5, 6, 7}}  # by type of interaction
Handler = Callable[["Rest", web.Request, Json], Awaitable[web.StreamResponse]]


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """JSON with exactly the content type that Discord sends: discord.py takes no other one for JSON."""
    headers = {"Via": "1.1 google", **(headers or {})}
    if body is None:
        return web.Response(status=status, headers=headers)
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json", headers=headers)


class Rest:
    """The state that REST works on, and the handlers."""

    def __init__(self, token: str, bot: User) -> None:
        self.token = token
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
            handler = ROUTES[entry.method, entry.template]
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


async def callback(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.interactions.get(int(given["interaction_id"]))
    if interaction is None or interaction.token != given["interaction_token"]:
        raise Refused(404, 10062)
    if interaction.acknowledged is not None:
        raise Refused(400, 40060)
    if rest.now() - interaction.created > ACK_SECONDS:
        raise Refused(404, 10062)
    kind, data = given["body"]["type"], given["body"].get("data") or {}
    if kind not in CALLBACKS[interaction.type]:
        raise Refused(400, 50035)
    shown: Message | None = None
    if kind == 4:
        shown = rest.create(interaction.channel, data, given["files"])
    elif kind == 5:
        shown = Message(interaction.channel, rest.bot, flags=LOADING | (data.get("flags") or 0) & EPHEMERAL)
        rest.messages[shown.id] = shown
    elif kind in (6, 7):
        shown = interaction.message
        if kind == 7 and shown:
            rest.write(shown, data, given["files"])
    elif kind == 9:
        interaction.modal = data
    if kind in (4, 5):
        interaction.message = None
    interaction.original = shown
    interaction.acknowledged, interaction.acknowledged_at = kind, rest.now()
    if request.query.get("with_response") not in ("1", "true"):
        return answer(None, 204)
    about = {"id": str(interaction.id), "type": interaction.type}
    if shown:
        about |= {
            "response_message_id": str(shown.id),
            "response_message_loading": shown.loading,
            "response_message_ephemeral": shown.ephemeral,
        }
    resource: Json = {"type": kind}
    if shown and kind in (4, 7):
        resource["message"] = shown.json()
    return answer({"interaction": about, "resource": resource})


async def get_answer(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.by_token(given["webhook_token"])
    return answer(rest.message_of(interaction, given.get("message_id", "@original")).json())


async def edit_answer(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.by_token(given["webhook_token"])
    message = rest.message_of(interaction, given.get("message_id", "@original"))
    return answer(rest.write(message, given["body"], given["files"]).json())


async def delete_answer(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.by_token(given["webhook_token"])
    rest.message_of(interaction, given.get("message_id", "@original")).deleted = True
    return answer(None, 204)


async def follow_up(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.by_token(given["webhook_token"])
    original = interaction.original
    if original and original.loading and not original.deleted:
        # The first follow-up fills the waiting message, and is as visible as that was made by the acknowledgement.
        message = rest.write(original, given["body"], given["files"])
    else:
        message = rest.create(interaction.channel, given["body"], given["files"])
        interaction.followups.append(message)
    return answer(message.json()) if request.query.get("wait") in ("1", "true") else answer(None, 204)


async def send_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    channel = rest.channels.get(int(given["channel_id"]))
    if channel is None:
        raise Refused(404, 10003)
    if not channel.bot_may_send:
        raise Refused(403, 50013 if channel.guild else 50007)
    return answer(rest.create(channel, given["body"], given["files"]).json())


async def edit_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    return answer(rest.write(_in_channel(rest, given), given["body"], given["files"]).json())


async def delete_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    _in_channel(rest, given).deleted = True
    return answer(None, 204)


def _in_channel(rest: Rest, given: Json) -> Message:
    message = rest.messages.get(int(given["message_id"]))
    if message is None or message.deleted or message.ephemeral or str(message.channel.id) != given["channel_id"]:
        raise Refused(404, 10008)
    return message


async def open_dm(rest: Rest, request: web.Request, given: Json) -> web.Response:
    recipient = given["body"]["recipient_id"]
    for channel in rest.channels.values():
        if channel.recipient and str(channel.recipient.id) == str(recipient):
            return answer(channel.json())
    raise Refused(400, 50007)


async def me(rest: Rest, request: web.Request, given: Json) -> web.Response:
    return answer({**rest.bot.json(), "verified": True, "mfa_enabled": True, "locale": "en-US", "email": None})


async def application(rest: Rest, request: web.Request, given: Json) -> web.Response:
    return answer(
        {
            "id": str(rest.bot.id), "name": rest.bot.name, "icon": None, "description": "", "summary": "",
            "bot_public": True, "bot_require_code_grant": False, "verify_key": "00" * 32, "flags": 0, "hook": True,
            "owner": {"id": "1", "username": "owner", "discriminator": "0", "avatar": None}, "team": None,
        }
    )  # fmt: skip


async def gateway(rest: Rest, request: web.Request, given: Json) -> web.Response:
    limit = {"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1}
    return answer({"url": rest.gateway_url, "shards": 1, "session_start_limit": limit})


async def list_commands(rest: Rest, request: web.Request, given: Json) -> web.Response:
    return answer(rest.commands)


async def put_commands(rest: Rest, request: web.Request, given: Json) -> web.Response:
    defaults = {"type": 1, "default_member_permissions": None, "nsfw": False, "contexts": None, "options": []}
    commands = []
    for command in given["body"]:
        ids = {"id": str(snowflake()), "application_id": str(rest.bot.id), "version": str(snowflake())}
        stored = {**defaults, "integration_types": [0], **_echo(command), **ids}
        stored.pop("dm_permission", None)
        if stored["default_member_permissions"] is not None:
            stored["default_member_permissions"] = str(stored["default_member_permissions"])
        commands.append(stored)
    rest.commands = commands
    return answer(commands)


def _echo(node: Any) -> Any:
    """What Discord gives back of a command: without what says nothing."""
    if isinstance(node, dict):
        return {key: _echo(value) for key, value in node.items() if value not in (None, False, [], {})}
    return [_echo(value) for value in node] if isinstance(node, list) else node


ORIGINAL = "/webhooks/{webhook_id}/{webhook_token}/messages/@original"
FOLLOWUP = "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}"
CHANNEL_MESSAGE = "/channels/{channel_id}/messages/{message_id}"
COMMANDS = "/applications/{application_id}/commands"
ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/interactions/{interaction_id}/{interaction_token}/callback"): callback,
    **{("GET", path): get_answer for path in (ORIGINAL, FOLLOWUP)},
    **{("PATCH", path): edit_answer for path in (ORIGINAL, FOLLOWUP)},
    **{("DELETE", path): delete_answer for path in (ORIGINAL, FOLLOWUP)},
    ("POST", "/webhooks/{webhook_id}/{webhook_token}"): follow_up,
    ("POST", "/channels/{channel_id}/messages"): send_message,
    ("PATCH", CHANNEL_MESSAGE): edit_message,
    ("DELETE", CHANNEL_MESSAGE): delete_message,
    ("POST", "/users/@me/channels"): open_dm,
    ("GET", "/users/@me"): me,
    ("GET", "/oauth2/applications/@me"): application,
    ("GET", "/applications/@me"): application,
    ("GET", "/gateway"): gateway,
    ("GET", "/gateway/bot"): gateway,
    ("GET", COMMANDS): list_commands,
    ("PUT", COMMANDS): put_commands,
}
