"""The fake engine's server: real sockets, scripted answers, and a record of what was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

from tests.fakes.engine.script import Request, Script, pictures, words
from tests.fakes.engine.validation import error_response, invalid_request

TOKENS_OF_A_PICTURE = 256


class FakeEngine:
    """One server on a real socket. Attributes may be changed while it runs."""

    def __init__(
        self,
        *,
        uds: str | None = None,
        port: int = 0,
        model: str = "fake-model",
        max_model_len: int | None = 4096,
        tokenize: bool = True,
        api_key: str | None = None,
        refused_fields: frozenset[str] = frozenset(),
    ) -> None:
        self.uds, self.port = uds, port
        self.models = [model]
        self.owner = "tests"  # how the server names itself
        self.max_model_len = max_model_len
        self.tokenize = tokenize
        self.fits = True  # whether /tokenize can leave messages out, as ours can
        self.api_key = api_key
        self.refused_fields = refused_fields
        self.erases = True  # whether it has /cache/erase, as ours
        self.erased: list[str] = []
        self.healthy = True
        self.metrics: str | None = None  # the text of /metrics; None for a server without
        self.images = "refused"  # how a prompt with pictures is taken: refused, seen, or ignored
        self.lists_models = True  # a server without /v1/models takes any name
        self.list_fails = False  # whether /v1/models answers 500
        self.list_of_others: list[str] | None = None  # what it lists instead of what it serves
        self.slot_context: int | None = None  # where llama.cpp's list has the context
        self.overflow = "openai"  # whose words for a prompt that is too long: openai, vllm or llama.cpp
        self.context = max_model_len or 4096
        self.requests: list[Request] = []
        self.calls: list[str] = []  # the path of every request, in order
        self.running = 0
        self.max_running = 0
        self.default: Callable[[Request], Script] = lambda request: Script(deltas=(f"You said: {request.last}",))
        self._scripts: deque[Script] = deque()
        self._release = asyncio.Event()
        self._rows: asyncio.Semaphore | None = None
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    # Scripts for the next requests, in order

    def reply(self, *deltas: str, pace: float = 0.0, finish_reason: str = "stop", usage: bool = True) -> None:
        self._scripts.append(Script(deltas=deltas, pace=pace, finish_reason=finish_reason, usage=usage))

    def hang(self, *deltas: str) -> None:
        """Stream these, then nothing until `release()`; then the request ends as usual."""
        self._release.clear()
        self._scripts.append(Script(deltas=deltas, hang=True))

    def release(self) -> None:
        self._release.set()

    def limit(self, rows: int | None) -> None:
        """Write at most so many replies at once from now on; the others wait for their first token, in order."""
        self._rows = None if rows is None else asyncio.Semaphore(rows)

    def fail(self, status: int, message: str = "broken on purpose", *, code: str | None = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        error = {"message": message, "type": "server_error", "param": None, "code": code}
        self._scripts.append(Script(status=status, error=error, headers=named))

    def drop(self, *deltas: str) -> None:
        """Stream these, then abort the connection."""
        self._scripts.append(Script(deltas=deltas, drop=True))

    def fail_in_stream(self, *deltas: str, message: str = "broken on purpose") -> None:
        self._scripts.append(Script(deltas=deltas, error_event={"message": message, "type": "server_error"}))

    async def cancelled(self, index: int) -> None:
        """Wait until the client has left this request; fails after two seconds."""
        for _ in range(100):
            if self.requests[index].cancelled:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the request was not cancelled")

    async def arrived(self, count: int) -> None:
        """Wait until `count` chat completions have arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    # The server

    @property
    def url(self) -> str:
        return "http://engine/v1" if self.uds else f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/cache/erase", self._erase)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
        await self._runner.setup()
        if self.uds:
            await web.UnixSite(self._runner, self.uds).start()
        else:
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
            self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and abort running requests; start() listens on the same address again."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        return web.json_response({"state": "ready" if self.healthy else "dead"}, status=200 if self.healthy else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        if self.metrics is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.Response(text=self.metrics)

    async def _models(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        if not self.lists_models:
            return web.json_response({"detail": "Not Found"}, status=404)
        if self.list_fails:
            return web.Response(status=500, text="Internal Server Error")
        if (refusal := self._unauthorised(request)) is not None:
            return refusal
        known: dict[str, object] = {} if self.max_model_len is None else {"max_model_len": self.max_model_len}
        if self.slot_context is not None:
            known["meta"] = {"n_ctx": self.slot_context, "n_ctx_train": 131_072}
        names = self.models if self.list_of_others is None else self.list_of_others
        data = [{"id": name, "object": "model", "created": 0, "owned_by": self.owner, **known} for name in names]
        return web.json_response({"object": "list", "data": data})

    async def _erase(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        if not self.erases:
            return web.json_response({"detail": "Not Found"}, status=404)
        if (refusal := self._unauthorised(request)) is not None:
            return refusal
        body = await request.json()
        assert set(body) == {"cache_salt"}
        self.erased.append(body["cache_salt"])
        return web.json_response({"object": "cache.erasure", "erased_pages": 3})

    async def _tokenize(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        if not self.tokenize:
            return web.json_response({"detail": "Not Found"}, status=404)
        if (refusal := self._unauthorised(request)) is not None:
            return refusal
        body = await request.json()
        if isinstance(body.get("prompt"), str):
            count = len(body["prompt"].split())
            return web.json_response({"count": count, "max_model_len": self.context, "tokens": list(range(count))})
        if body.get("model") not in self.models or not isinstance(body.get("messages"), list):
            return error_response(400, "tokenize wants a model that is served, and messages")
        messages, dropped = body["messages"], {}
        if self.fits and "max_prompt_tokens" in body:
            first = int(messages[0]["role"] == "system")
            while words(messages) > body["max_prompt_tokens"] and len(messages) > first + 2:
                messages = [*messages[:first], *messages[first + 2 :]]
            dropped = {"dropped_messages": len(body["messages"]) - len(messages)}
        count = words(messages)
        return web.json_response(
            {"count": count, "max_model_len": self.context, "tokens": list(range(count)), **dropped}
        )

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        self.calls.append(http.path)
        if (refusal := self._unauthorised(http)) is not None:
            return refusal
        body = await http.json()
        models = self.models if self.lists_models else None
        if (
            refusal := invalid_request(
                body,
                models=models,
                refused_fields=self.refused_fields,
                context=self.context,
                overflow=self.overflow,
                refuses_images=self.images == "refused",
            )
        ) is not None:
            return refusal
        request = Request(body, dict(http.headers), time.monotonic())
        script = self._scripts.popleft() if self._scripts else self.default(request)
        async with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        if script.status != 200:
            return web.json_response({"error": script.error}, status=script.status, headers=script.headers)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            response = await self._answer(http, request, script)
            request.finished = True
            return response
        except (asyncio.CancelledError, ConnectionError):
            request.cancelled = True
            raise
        finally:
            self.running -= 1

    async def _answer(self, http: web.Request, request: Request, script: Script) -> web.StreamResponse:
        seen = TOKENS_OF_A_PICTURE * len(pictures(request.messages)) if self.images == "seen" else 0
        usage = {"prompt_tokens": words(request.messages) + seen, "completion_tokens": len(script.deltas)}
        usage["total_tokens"] = sum(usage.values())
        if not request.body.get("stream"):
            if script.hang:
                await self._release.wait()
            message = {"role": "assistant", "content": "".join(script.deltas)}
            choice = {"index": 0, "message": message, "finish_reason": script.finish_reason}
            return web.json_response({**self._frame("chat.completion"), "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(http)
        async with self._rows or contextlib.nullcontext():
            return await self._stream(http, response, request, script, usage)

    async def _stream(
        self,
        http: web.Request,
        response: web.StreamResponse,
        request: Request,
        script: Script,
        usage: dict[str, int],
    ) -> web.StreamResponse:
        await self._event(response, {"role": "assistant", "content": ""})
        for delta in script.deltas:
            if script.pace:
                await asyncio.sleep(script.pace)
            request.first_token_at = request.first_token_at or time.time()
            await self._event(response, {"content": delta})
        if script.hang:
            await self._release.wait()
        if script.drop:
            if http.transport is not None:
                http.transport.abort()
            return response
        if script.error_event is not None:
            await response.write(f"data: {json.dumps({'error': script.error_event})}\n\n".encode())
            return response
        await self._event(response, {}, script.finish_reason)
        if script.usage and request.body.get("stream_options", {}).get("include_usage"):
            last = {**self._frame("chat.completion.chunk"), "choices": [], "usage": usage}
            await response.write(f"data: {json.dumps(last)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _event(self, response: web.StreamResponse, delta: dict[str, str], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        event = {**self._frame("chat.completion.chunk"), "choices": [choice]}
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-fake", "object": kind, "created": int(time.time()), "model": self.models[0]}

    def _unauthorised(self, request: web.Request) -> web.Response | None:
        if self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}":
            return None
        return error_response(401, "Incorrect API key provided", code="invalid_api_key")
