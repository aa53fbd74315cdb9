"""An OpenAI-compatible server for tests: strict about what it is sent, and told beforehand what to answer.

    async with FakeEngine() as engine:            # engine.url ends in /v1; or FakeEngine(uds=PATH)
        engine.reply("Hel", "lo")                 # queue of replies in ...
        engine.hang(); engine.fail(429, headers={"Retry-After": "3"}); engine.drop("half a")
        ...
        engine.requests[0].messages               # ... history of requests out

An empty queue answers with `engine.default(request)`, which echoes the last message. Tokens are words, plus four for
each message, so that tests can do sums. `python -m tests.fakes.engine --uds PATH ...` runs one as a process that takes
the engine's own flags; SIGUSR1 makes it ill.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

OPTIONAL = {"temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n", "stream", "user"}
OPTIONAL |= {"stream_options", "cache_salt", "frequency_penalty", "presence_penalty"}


@dataclass
class Request:
    """One chat completion as it came in."""

    body: dict[str, Any]
    headers: dict[str, str]
    started: float
    cancelled: bool = False
    finished: bool = False

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.body["messages"]

    @property
    def last(self) -> str:
        return self.messages[-1]["content"]


@dataclass
class Script:
    """What one request gets."""

    deltas: tuple[str, ...] = ()
    pace: float = 0.0
    finish_reason: str = "stop"
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False  # after the deltas: nothing, until release()
    drop: bool = False  # after the deltas: the connection is cut
    error_event: dict[str, Any] | None = None  # after the deltas: an error inside the stream
    usage: bool = True


def words(messages: list[dict[str, str]]) -> int:
    return sum(4 + len(message["content"].split()) for message in messages)


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
        self.max_model_len = max_model_len
        self.tokenize = tokenize
        self.api_key = api_key
        self.refused_fields = refused_fields
        self.healthy = True
        self.lists_models = True  # a server without /v1/models takes any name
        self.overflow = "openai"  # whose wording a prompt that is too long gets: openai, vllm or llama.cpp
        self.context = max_model_len or 4096
        self.requests: list[Request] = []
        self.calls: list[str] = []  # every path asked for, in order
        self.running = 0
        self.most_running = 0
        self.default: Callable[[Request], Script] = lambda request: Script(deltas=(f"You said: {request.last}",))
        self._scripts: deque[Script] = deque()
        self._release = asyncio.Event()
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    # What the next requests get, in order

    def reply(self, *deltas: str, pace: float = 0.0, finish_reason: str = "stop", usage: bool = True) -> None:
        self._scripts.append(Script(deltas=deltas, pace=pace, finish_reason=finish_reason, usage=usage))

    def hang(self, *deltas: str) -> None:
        """Stream these, then nothing until `release()`; then the request ends as usual."""
        self._release.clear()
        self._scripts.append(Script(deltas=deltas, hang=True))

    def release(self) -> None:
        self._release.set()

    def fail(self, status: int, message: str = "broken on purpose", *, code: str | None = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        error = {"message": message, "type": "server_error", "param": None, "code": code}
        self._scripts.append(Script(status=status, error=error, headers=named))

    def drop(self, *deltas: str) -> None:
        """Stream these, then cut the connection."""
        self._scripts.append(Script(deltas=deltas, drop=True))

    def fail_in_stream(self, *deltas: str, message: str = "broken on purpose") -> None:
        self._scripts.append(Script(deltas=deltas, error_event={"message": message, "type": "server_error"}))

    async def arrived(self, count: int) -> None:
        """Wait until so many chat completions have come in."""
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
        app.router.add_post("/tokenize", self._tokenize)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
        await self._runner.setup()
        if self.uds:
            await web.UnixSite(self._runner, self.uds).start()
        else:
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
            self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and cut what is running; start() listens on the same address again."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        return web.json_response({"state": "ready" if self.healthy else "dead"}, status=200 if self.healthy else 503)

    async def _models(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        if not self.lists_models:
            return web.json_response({"detail": "Not Found"}, status=404)
        if (refusal := self._unauthorised(request)) is not None:
            return refusal
        length = {} if self.max_model_len is None else {"max_model_len": self.max_model_len}
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "tests", **length} for name in self.models]
        return web.json_response({"object": "list", "data": data})

    async def _tokenize(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        if not self.tokenize:
            return web.json_response({"detail": "Not Found"}, status=404)
        if (refusal := self._unauthorised(request)) is not None:
            return refusal
        body = await request.json()
        if body.get("model") not in self.models or not isinstance(body.get("messages"), list):
            return _error(400, "tokenize wants a model that is served, and messages")
        count = words(body["messages"])
        return web.json_response({"count": count, "max_model_len": self.context, "tokens": list(range(count))})

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        self.calls.append(http.path)
        if (refusal := self._unauthorised(http)) is not None:
            return refusal
        body = await http.json()
        if (problem := self._problem(body)) is not None:
            return problem
        request = Request(body, dict(http.headers), time.monotonic())
        script = self._scripts.popleft() if self._scripts else self.default(request)
        async with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        if script.status != 200:
            return web.json_response({"error": script.error}, status=script.status, headers=script.headers)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
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
        usage = {"prompt_tokens": words(request.messages), "completion_tokens": len(script.deltas)}
        usage["total_tokens"] = sum(usage.values())
        if not request.body.get("stream"):
            if script.hang:
                await self._release.wait()
            message = {"role": "assistant", "content": "".join(script.deltas)}
            choice = {"index": 0, "message": message, "finish_reason": script.finish_reason}
            return web.json_response({**self._frame("chat.completion"), "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(http)
        await self._event(response, {"role": "assistant", "content": ""})
        for delta in script.deltas:
            if script.pace:
                await asyncio.sleep(script.pace)
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

    # Strictness

    def _unauthorised(self, request: web.Request) -> web.Response | None:
        if self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}":
            return None
        return _error(401, "Incorrect API key provided", code="invalid_api_key")

    def _problem(self, body: dict[str, Any]) -> web.Response | None:
        if self.lists_models and body.get("model") not in self.models:
            return _error(404, f"The model `{body.get('model')}` does not exist.", code="model_not_found")
        unknown = (set(body) - OPTIONAL - {"model", "messages"}) | (set(body) & self.refused_fields)
        if unknown:
            name = sorted(unknown)[0]
            return _error(400, f"Unrecognized request argument supplied: {name}", param=name)
        if (wrong := _wrong_messages(body["messages"])) is not None:
            return _error(400, wrong, param="messages")
        if not 0 <= body.get("temperature", 1) <= 2 or not 0 < body.get("top_p", 1) <= 1:
            return _error(400, "temperature or top_p out of range", param="temperature")
        reply = body.get("max_tokens", body.get("max_completion_tokens", 0))
        if not isinstance(reply, int) or reply < 0:
            return _error(400, "max_tokens must be a positive integer", param="max_tokens")
        prompt = words(body["messages"])
        if prompt + reply > self.context:
            return _overflow(self.overflow, self.context, prompt, reply)
        return None


def _wrong_messages(messages: list[dict[str, str]]) -> str | None:
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns[-1] != "user" or any(role != ("user", "assistant")[i % 2] for i, role in enumerate(turns)):
        return f"roles must alternate user/assistant and end with user, got {roles}"
    if any(not isinstance(message["content"], str) or not message["content"] for message in messages):
        return "every message needs content"
    if any(re.search("[\x00\ud800-\udfff]", message["content"]) for message in messages):
        return "a message is not valid Unicode text"
    return None


def _overflow(style: str, limit: int, prompt: int, reply: int) -> web.Response:
    if style == "llama.cpp":
        text = "the request exceeds the available context size, try increasing it"
        error = {"code": 400, "message": text, "type": "exceed_context_size_error"}
        return web.json_response({"error": {**error, "n_prompt_tokens": prompt, "n_ctx": limit}}, status=400)
    text = (
        f"This model's maximum context length is {limit} tokens. However, you requested {prompt + reply} tokens "
        f"({prompt} in the messages, {reply} in the completion). Please reduce the length of the messages."
    )
    if style == "vllm":  # an older spelling: flat, and without a code
        flat = {"object": "error", "message": text, "type": "BadRequestError", "param": None, "code": 400}
        return web.json_response(flat, status=400)
    return _error(400, text, code="context_length_exceeded", param="messages")


def _error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return web.json_response({"error": error}, status=status)


async def _serve(options: argparse.Namespace) -> None:
    engine = FakeEngine(uds=options.uds, port=options.port, model=options.model)
    engine.default = lambda request: Script(deltas=("You ", "said: ", request.last), pace=options.pace)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: setattr(engine, "healthy", False))
    await asyncio.sleep(options.load_seconds)
    async with engine:
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="fake-model")
    parser.add_argument("--pace", type=float, default=float(os.environ.get("FAKE_ENGINE_PACE", "0")))
    parser.add_argument("--load-seconds", type=float, default=float(os.environ.get("FAKE_ENGINE_LOAD", "0")))
    options, _ = parser.parse_known_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
