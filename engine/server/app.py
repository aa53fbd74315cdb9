"""The HTTP face of the engine: routes, bodies in and out, event streams, and noticing that a client has gone.

Knows OpenAI's endpoints (and vLLM's /tokenize and /detokenize); asks `Service` for everything else. One ASGI app, no
globals. A stream waits for its own client only: what a slow reader does not take stays as token ids, at most as many as
it asked for.
"""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from engine.server.fields import JsonObject, RequestError, parse_object
from engine.server.metrics import Metrics
from engine.server.protocol import parse_chat, parse_completion, parse_detokenize, parse_tokenize
from engine.server.responses import ChatResponseFormat, CompletionResponseFormat, ResponseFormat, encode, event
from engine.server.serving import ServingService
from engine.server.streaming import ResponseStream

OPEN_PATHS = ("/health", "/metrics")  # for probes and scrapers; neither shows a word of a dialog
CLIENT_GONE = 499


def build_app(
    service: ServingService, metrics: Metrics, *, api_key: str | None, max_body: int, stream_interval: float = 0.0
) -> Starlette:
    """`stream_interval`: seconds for which the text of a stream is gathered after each event; 0 sends every token."""

    async def answer(request: Request, reply: ResponseStream, shape: ResponseFormat, *, stream: bool) -> Response:
        return EventStream(reply, shape, stream_interval) if stream else await _whole(request, reply, shape)

    async def chat(request: Request) -> Response:
        wanted = parse_chat(await _body(request, max_body))
        shape = ChatResponseFormat(service.name, include_usage=wanted.options.include_usage)
        return await answer(request, await service.chat(wanted), shape, stream=wanted.options.stream)

    async def complete(request: Request) -> Response:
        wanted = parse_completion(await _body(request, max_body))
        shape = CompletionResponseFormat(service.name, include_usage=wanted.options.include_usage)
        return await answer(request, await service.complete(wanted), shape, stream=wanted.options.stream)

    async def tokenize(request: Request) -> Response:
        return _json(await service.tokenize(parse_tokenize(await _body(request, max_body))))

    async def detokenize(request: Request) -> Response:
        return _json(await service.detokenize(parse_detokenize(await _body(request, max_body))))

    async def models(_request: Request) -> Response:
        return _json({"object": "list", "data": [service.card()]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            raise RequestError("There is no such model here.", param="model", code="model_not_found", status=404)
        return _json(service.card())

    async def health(_request: Request) -> Response:
        status, body = service.health()
        return _json(body, status)

    async def scrape(_request: Request) -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def guarded(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            if api_key is not None and not _has_key(request, api_key):
                message = "A valid API key is needed: Authorization: Bearer …"
                raise RequestError(message, code="invalid_api_key", status=401)
            return await handler(request)

        return checked

    async def refuse(_request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestError):
            raise error
        metrics.refused(error.status)
        response = _json(error.body(), error.status)
        if error.retry_after is not None:
            response.headers["retry-after"] = str(error.retry_after)
        if error.status == 401:
            response.headers["www-authenticate"] = "Bearer"
        return response

    async def not_here(_request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        body = RequestError(f"{error.detail}.", status=error.status_code, code="not_found").body()
        return Response(encode(body), error.status_code, media_type="application/json", headers=error.headers)

    async def gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    routes = [
        Route("/v1/chat/completions", guarded(chat), methods=["POST"]),
        Route("/v1/completions", guarded(complete), methods=["POST"]),
        Route("/v1/models", guarded(models), methods=["GET"]),
        Route("/v1/models/{name:path}", guarded(model), methods=["GET"]),
        Route("/tokenize", guarded(tokenize), methods=["POST"]),
        Route("/detokenize", guarded(detokenize), methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        Route("/metrics", scrape, methods=["GET"]),
    ]
    handlers = {RequestError: refuse, HTTPException: not_here, ClientDisconnect: gone}
    return Starlette(routes=routes, exception_handlers=handlers)


def _json(body: object, status: int = 200) -> Response:
    return Response(encode(body), status, media_type="application/json")


def _has_key(request: Request, api_key: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), api_key.encode())


async def _body(request: Request, limit: int) -> JsonObject:
    """The request's JSON object, never more of it in memory than `limit` bytes."""
    too_large = RequestError(f"The body may have at most {limit} bytes.", code="body_too_large", status=413)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise too_large
    return parse_object(bytes(body))


async def _whole(request: Request, reply: ResponseStream, shape: ResponseFormat) -> Response:
    async with _cancelled_when_gone(reply, request.receive):
        text = "".join([piece async for piece in reply])
    if reply.finish_reason is None:
        return Response(status_code=CLIENT_GONE)
    return Response(shape.whole(text, reply.finish_reason, reply.usage), media_type="application/json")


class EventStream(Response):
    """Server-sent events of one reply. An error in the middle is an event of its own: no part passes for a whole."""

    media_type = "text/event-stream"

    def __init__(self, reply: ResponseStream, shape: ResponseFormat, interval: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._reply = reply
        self._shape = shape
        self._interval = interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _cancelled_when_gone(self._reply, receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for part in self._parts():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _parts(self) -> AsyncIterator[bytes]:
        if opening := self._shape.opening():
            yield opening
        try:
            async for piece in self._reply:
                yield self._shape.delta(piece)
                if self._interval:
                    await self._reply.gather(self._interval)
        except RequestError as error:
            yield event(error.body())
            return
        if self._reply.finish_reason is not None:
            yield self._shape.closing(self._reply.finish_reason, self._reply.usage)


@contextlib.asynccontextmanager
async def _cancelled_when_gone(reply: ResponseStream, receive: Receive) -> AsyncIterator[None]:
    """Cancels the reply as soon as the client hangs up, and in any case when the block is left."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        reply.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        reply.cancel()
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
