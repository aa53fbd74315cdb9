"""Ends the turn of a request when its response arrives."""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp

from bot.discord_app.rest.request_pace import Turn


def trace_turns(trace: aiohttp.TraceConfig) -> None:
    """Let this trace of discord.py's session tell each turn when its response has come.

    discord.py itself returns later: after the last request of a bucket it sleeps until the bucket is full again.
    """

    async def responded(session: object, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
        turn = getattr(context, "trace_request_ctx", None)
        if isinstance(turn, Turn):
            turn.status = params.response.status
        again = params.response.status == 429 or params.response.status >= 500  # discord.py may send it again
        if isinstance(turn, Turn) and not again:
            turn.responded(params.response.headers)

    trace.on_request_end.append(responded)
