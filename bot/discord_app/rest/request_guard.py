"""Counts the requests that Discord refuses, and stops writing before Discord bans the address.

10,000 responses of 401, 403 or 429 within ten minutes are a ban for every bot of this address. At half of that, nothing
but reading is allowed until the count has gone down. A 401 to the bot's own token means that every further request
would be refused too: it stops all writing until someone has found out whether the token is valid (`connection`).

Knows only the trace hook of discord.py's HTTP client, which sees every request of the bot.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import aiohttp
import structlog
from discord.http import Route

log = structlog.get_logger(__name__)

MAX_INVALID = 5_000
PERIOD = 600.0
"""Seconds. Discord allows 10,000 in this time."""
_INVALID = (401, 403, 429)
_UNAUTHORISED = 401
_READING = ("GET", "HEAD", "OPTIONS")
_TOKEN_IN_PATH = ("/webhooks/", "/interactions/")
"""Their 401 is about the token of an interaction or a webhook."""


class WritingStopped(aiohttp.ClientError):
    """The request was not made: Discord has refused too many. It may be made again later."""


class RequestGuard:
    """The guard of one HTTP client: pass `trace` to discord.py."""

    def __init__(self, *, max_invalid: int = MAX_INVALID, clock: Callable[[], float] = time.monotonic) -> None:
        self.unauthorised = asyncio.Event()
        """Set by a 401 to the bot's token. Cleared by `connection` once the token proves valid."""
        self.trace = aiohttp.TraceConfig()
        self.trace.on_request_start.append(self._on_start)
        self.trace.on_request_end.append(self._on_end)
        self._max_invalid = max_invalid
        self._clock = clock
        self._invalid_at: deque[float] = deque()
        self._stopped = False

    @property
    def num_invalid(self) -> int:
        """Refused requests of the last ten minutes."""
        while self._invalid_at and self._invalid_at[0] <= self._clock() - PERIOD:
            self._invalid_at.popleft()
        return len(self._invalid_at)

    def check(self, method: str) -> None:
        """Raise WritingStopped where this request must not be made."""
        if method in _READING:
            return
        if self.unauthorised.is_set():
            raise WritingStopped("Discord does not take the bot's token")
        count = self.num_invalid
        if self._stopped and count <= self._max_invalid // 2:  # not one at a time as each gets old enough
            self._stopped = False
            log.info("Discord has refused fewer requests; writing goes on", refused=count)
        if not self._stopped and count >= self._max_invalid:
            self._stopped = True
            log.error(
                "Discord has refused too many requests: nothing is written until the count has fallen; "
                "at 10,000 it would ban this address",
                refused=count,
                minutes=int(PERIOD // 60),
            )
        if self._stopped:
            raise WritingStopped("too many requests were refused")

    def count(self, status: int, path: str, *, shared: bool = False) -> None:
        """Count a response. `shared`: a 429 that others have caused, which Discord does not count."""
        if status not in _INVALID or shared:
            return
        self._invalid_at.append(self._clock())
        if status == _UNAUTHORISED and not path.startswith(_TOKEN_IN_PATH) and not self.unauthorised.is_set():
            log.error("Discord does not take the bot's token; nothing is written")
            self.unauthorised.set()

    async def _on_start(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        if str(request.url).startswith(Route.BASE):
            self.check(request.method)

    async def _on_end(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestEndParams
    ) -> None:
        response = request.response
        statuses = context.trace_request_ctx
        if isinstance(statuses, list):  # the sender wants to know: see `send_once`
            statuses.append(response.status)
        url = str(request.url)
        if url.startswith(Route.BASE):
            shared = response.headers.get("X-RateLimit-Scope") == "shared"
            self.count(response.status, url.removeprefix(Route.BASE), shared=shared)
