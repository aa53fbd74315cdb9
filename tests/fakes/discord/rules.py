"""Discord's rules for every request: the OpenAPI file, error bodies, rate limits; and the faults that tests plan.

Knows HTTP status codes and Discord's error numbers. Knows nothing of guilds, interactions or the gateway.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from jsonschema import Draft202012Validator, validators

Json = dict[str, Any]


def _quicker(node: Any) -> Any:
    """The same schema with lists of constants as enums, and no second description of an enum: both are slow."""
    if isinstance(node, list):
        return [_quicker(each) for each in node]
    if not isinstance(node, dict):
        return node
    constants = node.get("oneOf")
    if isinstance(constants, list) and all(isinstance(each, dict) and "const" in each for each in constants):
        node = {**node, "enum": [each["const"] for each in constants]}
        del node["oneOf"]
    if "enum" in node and "allOf" in node:
        node = {key: value for key, value in node.items() if key != "allOf"}
    return {key: _quicker(value) for key, value in node.items()}


SPEC = _quicker(json.loads((Path(__file__).parent / "data" / "openapi.json").read_text()))
CUSTOM_ID = re.compile(r'"custom_id": "[^"\\]*"')
SHORT = 2000  # no schema limits a shorter content
# Discord also accepts ids as numbers, as discord.py sends them; the file allows only strings.
_ID = SPEC["components"]["schemas"]["SnowflakeType"]
SPEC["components"]["schemas"]["SnowflakeType"] = {"anyOf": [dict(_ID), {"type": "integer", "minimum": 0}]}

ERROR_MESSAGES = {
    0: "401: Unauthorized",
    10003: "Unknown Channel",
    10008: "Unknown Message",
    10014: "Unknown Emoji",
    10015: "Unknown Webhook",
    10062: "Unknown interaction",
    30007: "Maximum number of webhooks reached (15)",
    30010: "Maximum number of reactions reached (20)",
    30032: "Maximum number of application commands reached",
    30046: "Maximum number of edits to messages older than 1 hour reached. Try again later",
    40005: "Request entity too large",
    40060: "Interaction has already been acknowledged.",
    40094: "This interaction has reached its limit of follow-up messages",
    50001: "Missing Access",
    50003: "Cannot execute action on a DM channel",
    50005: "Cannot edit a message authored by another user",
    50006: "Cannot send an empty message",
    50007: "Cannot send messages to this user",
    50013: "Missing Permissions",
    50021: "Cannot execute action on a system message",
    50024: "Cannot execute action on this channel type",
    50027: "Invalid Webhook Token",
    50033: "Invalid Recipient(s)",
    50035: "Invalid Form Body",
    50068: "Invalid message type",
    50083: "This thread is archived",
    90001: "Reaction was blocked",
    160002: "Cannot reply without permission to read message history",
    160004: "A thread has already been created for this message",
    160005: "Thread is locked",
}


class ApiError(Exception):
    """A refusal: an HTTP status and one of Discord's JSON error codes.

    `violation`: what a well-behaved bot would not have sent, if the bot could have known.
    """

    def __init__(self, status: int, code: int, *, violation: str = "", **extra: Any) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.violation = violation
        self.body: Json = {"message": ERROR_MESSAGES.get(code, "Error"), "code": code, **extra}


def invalid(field_path: str, message: str, *, code: str = "INVALID", violation: bool = True) -> ApiError:
    """400 and 50035 for a field, such as "components.0.custom_id", in the nested form that Discord uses."""
    errors: Json = {"_errors": [{"code": code, "message": message}]}
    for key in reversed(field_path.split(".")):
        errors = {key: errors}
    return ApiError(400, 50035, errors=errors, violation=f"{field_path}: {message}" if violation else "")


def utf16_length(text: str) -> int:
    """The length of a text as Discord counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


# (requests, seconds) of each kind of route; every channel, and every interaction's token, has its own.
LIMITS = {
    "webhook": (5, 2.0),
    "message_create": (5, 5.0),
    "message_edit": (5, 5.0),
    "message_delete": (5, 1.0),
    "reaction": (1, 0.25),
    "typing": (5, 5.0),
    "thread_create": (5, 5.0),
    "channel_edit": (5, 5.0),
    "other": (50, 1.0),
    "global": (50, 1.0),  # all routes but those of interactions
    "old_edit": (3, 20.0),  # edits in a channel of messages that are more than an hour old
}
INVALID_LIMIT, INVALID_PERIOD = 10_000, 600.0  # 401, 403 and 429 until Discord bans the address


def route_kind(method: str, template: str) -> str:
    """The key in `LIMITS` of an operation."""
    if template.startswith("/webhooks/{webhook_id}/{webhook_token}"):
        return "webhook"
    if "/reactions/" in template:
        return "reaction"
    if template.endswith("/typing"):
        return "typing"
    if template.endswith("/threads"):
        return "thread_create"
    if "/messages" in template and method in ("POST", "PATCH", "DELETE"):
        return {"POST": "message_create", "PATCH": "message_edit", "DELETE": "message_delete"}[method]
    return "channel_edit" if template == "/channels/{channel_id}" and method == "PATCH" else "other"


PATH_PATTERNS = [
    (str(template), re.compile(re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(template))))
    for template in sorted(SPEC["paths"], key=lambda template: template.count("{"))
]


def path_template(method: str, path: str) -> str | None:
    """The path's template in the OpenAPI file, a literal one first; None if Discord has no such path."""
    for template, pattern in PATH_PATTERNS:
        if pattern.fullmatch(path) and method.lower() in SPEC["paths"][template]:
            return template
    return None


def _fitting(branches: list[Json], instance: Any) -> list[Json]:
    """The alternatives of a schema that can fit: by the `type` of components and callbacks, and by null or not null.

    A plain jsonschema tries all alternatives at every level, which takes 100 ms for a message with eight buttons.
    """
    if isinstance(instance, dict):
        kind = instance.get("type")
        return [branch for branch in branches if _declared_type(json.dumps(branch)) in (None, kind)] or branches
    return [branch for branch in branches if instance is None or branch.get("type") != "null"]


@functools.cache
def _declared_type(branch: str) -> Any:
    """The value of `type` that an alternative demands of an object; None if it demands none."""
    schema = json.loads(branch)
    if schema.get("type") == "null":
        return "null"
    if "$ref" in schema:
        schema = SPEC["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    allowed = schema.get("properties", {}).get("type", {}).get("enum", ())
    return allowed[0] if len(allowed) == 1 else None


def _alternatives(keyword: str) -> Any:
    plain = Draft202012Validator.VALIDATORS[keyword]

    def check(validator: Any, branches: list[Json], instance: Any, schema: Json) -> Iterator[Any]:
        fitting = _fitting(branches, instance)
        if len(fitting) == 1:
            return cast(Iterator[Any], validator.descend(instance, fitting[0]))
        return cast(Iterator[Any], plain(validator, fitting, instance, schema))

    return check


BodyValidator = validators.extend(Draft202012Validator, {key: _alternatives(key) for key in ("oneOf", "anyOf")})


@functools.cache
def body_validator(method: str, template: str) -> Any:
    """The validator of the request body of an operation, if it has one."""
    schema = SPEC["paths"][template][method.lower()].get("schema")
    return None if schema is None else BodyValidator({**schema, "components": SPEC["components"]})


def schema_violations(method: str, template: str, body: Any) -> Sequence[str]:
    """Where a request body does not match its schema in the OpenAPI file."""
    inner = body.get("data") if isinstance(body, dict) and isinstance(body.get("data"), dict) else body
    if isinstance(inner, dict) and isinstance(text := inner.get("content"), str) and len(text) <= SHORT:
        inner = {**inner, "content": "x"}  # a reply grows by edits that differ in nothing else
        body = {**body, "data": inner} if "data" in body else inner
    raw = CUSTOM_ID.sub(lambda found: re.sub(r"\d", "0", found[0]), json.dumps(body))  # rows of the same shape
    return _violations(method, template, raw)


@functools.lru_cache(4096)
def _violations(method: str, template: str, raw: str) -> Sequence[str]:
    validator = body_validator(method, template)
    found = []
    for error in validator.iter_errors(json.loads(raw)) if validator else ():
        deepest = min(error.context or [error], key=lambda inner: len(inner.absolute_path), default=error)
        message = f"{error.message[:200]} ({deepest.message[:200]})"
        found.append(f"{method} {template}: {error.json_path}: {message}")
    return found


@dataclass(slots=True)
class Bucket:
    """A sliding window of `limit` requests in `per` seconds."""

    name: str
    limit: int
    per: float
    times: deque[float] = field(default_factory=deque)

    def take(self) -> float:
        """Count a request and return 0, or return the seconds to wait if the limit is reached."""
        now = time.monotonic()
        while self.times and self.times[0] <= now - self.per:
            self.times.popleft()
        if len(self.times) >= self.limit:
            return self.times[0] + self.per - now
        self.times.append(now)
        return 0.0

    def headers(self) -> dict[str, str]:
        """The rate limit headers of a response."""
        reset_after = max(0.0, self.times[0] + self.per - time.monotonic()) if self.times else self.per
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(max(0, self.limit - len(self.times))),
            "X-RateLimit-Reset": f"{time.time() + reset_after:.3f}",
            "X-RateLimit-Reset-After": f"{reset_after:.3f}",
            "X-RateLimit-Bucket": self.name,
        }


def rate_limit_response(retry_after: float, *, scope: str = "user") -> tuple[Json, dict[str, str]]:
    """The body and headers of a 429. Without `Via`, which `json_response` adds, discord.py assumes a Cloudflare ban."""
    body = {"message": "You are being rate limited.", "retry_after": round(retry_after, 3), "global": scope == "global"}
    return body, {"Retry-After": f"{retry_after:.3f}", "X-RateLimit-Scope": scope}


@dataclass(slots=True)
class Fault:
    """A planned fault for the next `times` matching requests, after `skip` of them."""

    method: str
    path: re.Pattern[str]
    times: int
    skip: int = 0
    status: int = 0
    code: int = 0
    retry_after: float | None = None
    delay: float = 0.0
    # The connection breaks: "request" before Discord acts on it, "response" afterwards. "answer": Discord acts on it,
    # and answers with `status` all the same.
    lose: str = ""

    def matches(self, method: str, path: str) -> bool:
        """Whether this request is to fail; counts it."""
        if self.times <= 0 or method != self.method or not self.path.search(path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(slots=True)
class Request:
    """One recorded request, with the status and error code of its response."""

    received_at: float
    method: str
    path: str
    template: str
    query: dict[str, str]
    body: Any
    files: list[str]
    status: int = 0
    code: int = 0

    def shown_text(self) -> str | None:
        """The content of the message in this request, if it has one."""
        body = self.body.get("data") if isinstance(self.body, dict) and "data" in self.body else self.body
        text = body.get("content") if isinstance(body, dict) else None
        return text if isinstance(text, str) else None

    def allowed_mentions(self) -> Any:
        """The allowed mentions of that message; None if the request leaves them out."""
        body = self.body.get("data") if isinstance(self.body, dict) and "data" in self.body else self.body
        return body.get("allowed_mentions") if isinstance(body, dict) else None

    def pings_nobody(self) -> bool:
        """Whether that message can ping no one but one user who was named, or the author it replies to."""
        allowed = self.allowed_mentions()
        if allowed is None or allowed.get("parse") != [] or allowed.get("roles"):
            return False
        return len(allowed.get("users") or ()) <= 1
