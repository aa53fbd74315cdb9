"""Discord's rules for every request: the OpenAPI file, error bodies, rate limits; and the faults that tests plan.

Knows HTTP status codes and Discord's error numbers. Knows nothing of guilds, interactions or the gateway.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

Json = dict[str, Any]

SPEC = json.loads((Path(__file__).parent / "data" / "openapi.json").read_text())
# Discord also accepts ids as numbers, as discord.py sends them; the file allows only strings.
_ID = SPEC["components"]["schemas"]["SnowflakeType"]
SPEC["components"]["schemas"]["SnowflakeType"] = {"anyOf": [dict(_ID), {"type": "integer", "minimum": 0}]}

ERROR_MESSAGES = {
    0: "401: Unauthorized",
    10003: "Unknown Channel",
    10008: "Unknown Message",
    10015: "Unknown Webhook",
    10062: "Unknown interaction",
    40060: "Interaction has already been acknowledged.",
    50001: "Missing Access",
    50006: "Cannot send an empty message",
    50007: "Cannot send messages to this user",
    50013: "Missing Permissions",
    50027: "Invalid Webhook Token",
    50035: "Invalid Form Body",
}


class ApiError(Exception):
    """A refusal: an HTTP status and one of Discord's JSON error codes."""

    def __init__(self, status: int, code: int, **extra: Any) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.body: Json = {"message": ERROR_MESSAGES.get(code, "Error"), "code": code, **extra}


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


@functools.cache
def body_validator(method: str, template: str) -> Draft202012Validator | None:
    """The validator of the request body of an operation, if it has one."""
    schema = SPEC["paths"][template][method.lower()].get("schema")
    return None if schema is None else Draft202012Validator({**schema, "components": SPEC["components"]})


def schema_violations(method: str, template: str, body: Any) -> Iterator[str]:
    """Where a request body does not match its schema in the OpenAPI file."""
    validator = body_validator(method, template)
    if validator is None:
        return
    for error in validator.iter_errors(body):
        deepest = min(error.context or [error], key=lambda inner: len(inner.absolute_path), default=error)
        yield f"{method} {template}: {error.json_path}: {error.message[:200]} ({deepest.message[:200]})"


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
    lose: str = ""  # the connection breaks: "request" before Discord acts on it, "response" afterwards

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
