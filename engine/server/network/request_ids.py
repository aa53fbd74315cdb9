"""`x-request-id`: taken from the client or made here, part of every answer, and in the log beside a failure.

A client's id is taken only if it is short and printable. Knows no routes and no bodies.
"""

import re
import secrets
import sys
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = "x-request-id"
_VALID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


class RequestIdMiddleware:
    """Gives every request an id, under `request_id` in its scope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).getlist(HEADER)
        request_id = given[0] if len(given) == 1 and _VALID.fullmatch(given[0]) else f"req_{secrets.token_hex(16)}"
        scope["request_id"] = request_id

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, with_id)


def log_failure(scope: Scope, problem: str) -> None:
    """A line on stderr about a reply that the engine began and could not finish."""
    sys.stderr.write(f"engine: request {scope.get('request_id', '-')}: {problem}\n")
    sys.stderr.flush()
