"""One request to Discord through discord.py's HTTP client: with its turn, as JSON or as a form, and at most once.

discord.py waits for rate limits and sends again what failed. Where that could show a message twice, `send_once` stops
it.
"""

from __future__ import annotations

import io
from typing import Any

import aiohttp
import discord
from discord.http import HTTPClient, Route

from bot.discord_app.rest.message_data import FILE_NAME
from bot.discord_app.rest.request_pace import Turn

_TOO_MANY_REQUESTS = 429
_MAX_RATE_LIMITED = 5


class AnswerLost(aiohttp.ClientError):
    """Discord failed after it was asked for a message, which may be there or not: look before another attempt."""


class _SecondAttempt(Exception):
    """discord.py is about to send a request again."""


class _Once:
    """Stands among the files of a request, which discord.py resets before each attempt."""

    def reset(self, *, seek: int | bool) -> None:
        """Raise _SecondAttempt before all attempts but the first."""
        if seek:
            raise _SecondAttempt


async def send_request(http: HTTPClient, route: Route, turn: Turn | None, **arguments: Any) -> Any:
    """Send a request in this turn, which ends when the response arrives; return its JSON."""
    if turn is not None:
        turn.is_sent = True
        arguments["trace_request_ctx"] = turn  # see `trace_turns`
    return await http.request(route, **arguments)


async def send_once(
    http: HTTPClient, route: Route, body: dict[str, Any], file: str | None, *, turn: Turn | None = None
) -> dict[str, Any]:
    """Send a message, and again only after a rate limit; return its JSON.

    Raises AnswerLost after a failure that leaves open whether Discord has accepted it.
    """
    statuses: list[int] = []  # `RequestGuard` adds to them where there is no turn
    options = {} if turn is not None else {"trace_request_ctx": statuses}
    for _ in range(_MAX_RATE_LIMITED):
        try:
            return await send_message(http, route, body, file, turn=turn, once=True, **options)
        except _SecondAttempt:
            if (statuses[-1:] if turn is None else [turn.status]) != [_TOO_MANY_REQUESTS]:
                raise AnswerLost from None
    raise AnswerLost


async def send_message(
    http: HTTPClient,
    route: Route,
    body: dict[str, Any],
    file: str | None,
    *,
    turn: Turn | None = None,
    once: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Send a message, with this text as a file; return its JSON. `once`: see `send_once`."""
    guard: list[Any] = [_Once()] if once else []
    if file is None:
        data: Any = await send_request(http, route, turn, json=body, files=guard or None, **options)
    else:
        content = discord.File(io.BytesIO(file.encode()), FILE_NAME)
        form: list[dict[str, Any]] = [
            {"name": "payload_json", "value": discord.utils._to_json(body)},
            {"name": "files[0]", "value": content.fp, "filename": FILE_NAME, "content_type": "text/markdown"},
        ]
        data = await send_request(http, route, turn, form=form, files=[*guard, content], **options)
    return data if isinstance(data, dict) else {}
