"""A server that answers with bytes: for shapes and behaviours that no sane server has, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

Answer = Callable[[dict[str, Any], web.Request], Awaitable[web.StreamResponse]]


def chunk(delta: object, finish_reason: object = None, **more: object) -> dict[str, object]:
    """One chunk of a streamed reply, its parts of any type."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more}


def events(*chunks: object, done: bool = True) -> bytes:
    """These as server-sent events: a text as it is, anything else as JSON."""
    texts = [part if isinstance(part, str) else f"data: {json.dumps(part)}\n\n" for part in chunks]
    return "".join([*texts, "data: [DONE]\n\n"] if done else texts).encode()


OK = events(chunk({"content": "ok"}), chunk({}, "stop"))


class WireServer:
    """Answers each chat completion with `answer(body, request)`, and keeps the bodies."""

    def __init__(self, answer: Answer | bytes = OK) -> None:
        self.answer = answer
        self.models: object = {"data": [{"id": "m"}]}
        self.bodies: list[dict[str, Any]] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(self.models)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if isinstance(self.answer, bytes):
            return web.Response(body=self.answer, content_type="text/event-stream")
        return await self.answer(body, request)


def refusing(status: int, body: object, when: Callable[[dict[str, Any]], bool] = lambda body: True) -> Answer:
    """Answers `status` with this body (a text as it is, anything else as JSON) to requests that `when` picks."""

    async def answer(sent: dict[str, Any], request: web.Request) -> web.StreamResponse:
        if not when(sent):
            return web.Response(body=OK, content_type="text/event-stream")
        if isinstance(body, str):
            return web.Response(text=body, status=status, content_type="text/html" if "<" in body else "text/plain")
        return web.json_response(body, status=status)

    return answer


def endless(piece: bytes, pause: float = 0.0) -> Answer:
    """Streams this piece over and over until the client leaves."""

    async def answer(sent: dict[str, Any], request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(piece)
            await asyncio.sleep(pause)

    return answer
