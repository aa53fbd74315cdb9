"""Counts the bot's requests to Discord by what was asked, and how Discord answered.

Knows only the trace hook of discord.py's HTTP client, which sees every request of the bot. No id of a path is kept.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import aiohttp
from discord.http import Route

from bot.telemetry.metrics import DISCORD_REQUESTS, DISCORD_SECONDS, RATE_LIMIT_SCOPES, RATE_LIMITED

_OWN_STATUSES = {401: "401", 403: "403", 404: "404", 429: "429"}
_TOO_MANY_REQUESTS = 429


def route_of(method: str, path: str) -> str:
    """What a request asks for, of `bot.telemetry.metrics.ROUTES`. `path` is relative to the API's root."""
    parts = path.partition("?")[0].strip("/").split("/")
    if method == "GET":
        return "read"
    if parts[0] == "interactions" and parts[-1] == "callback":
        return "acknowledge"
    if parts[-1] == "typing":
        return "typing"
    # Messages of a channel, of an interaction, or of a webhook; not the webhook itself, nor a thread.
    if method == "POST" and (parts[-1] == "messages" or (parts[0] == "webhooks" and len(parts) == 3)):
        return "send"
    if len(parts) >= 4 and parts[-2] == "messages":
        return {"PATCH": "edit", "DELETE": "delete"}.get(method, "other")
    return "other"


def status_of(status: int) -> str:
    """An HTTP status, of `bot.telemetry.metrics.STATUSES`."""
    if status < 400:
        return "2xx"
    return _OWN_STATUSES.get(status) or ("4xx" if status < 500 else "5xx")


def trace_requests(trace: aiohttp.TraceConfig) -> None:
    """Let this trace of discord.py's session count each request, also those that discord.py makes again."""

    async def on_start(
        session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        context.metrics_started_at = time.monotonic()

    async def on_end(
        session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestEndParams
    ) -> None:
        url, response = str(request.url), request.response
        if not url.startswith(Route.BASE):
            return
        route = route_of(request.method, url.removeprefix(Route.BASE))
        DISCORD_REQUESTS.labels(route, status_of(response.status)).inc()
        DISCORD_SECONDS.labels(route).observe(time.monotonic() - context.metrics_started_at)
        if response.status == _TOO_MANY_REQUESTS:
            scope = response.headers.get("X-RateLimit-Scope", "")
            RATE_LIMITED.labels(scope if scope in RATE_LIMIT_SCOPES else "unknown").inc()

    async def on_exception(
        session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestExceptionParams
    ) -> None:
        url = str(request.url)
        if url.startswith(Route.BASE):
            DISCORD_REQUESTS.labels(route_of(request.method, url.removeprefix(Route.BASE)), "failed").inc()

    trace.on_request_start.append(on_start)
    trace.on_request_end.append(on_end)
    trace.on_request_exception.append(on_exception)
