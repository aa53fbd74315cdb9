"""The HTTP application: routes, request bodies in, response bodies and event streams out, cancel on disconnect.

Knows OpenAI's endpoints, vLLM's /tokenize and /detokenize, and our /cache/erase; asks `ServingService` for everything
else. One ASGI app without globals. Each stream waits for its own client only: what a slow client has not read yet stays
in memory as token ids, at most `max_tokens` of them.
"""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.server.generation.choices import Choices
from engine.server.metrics import Metrics
from engine.server.network.access import AccessMiddleware, AccessPolicy
from engine.server.network.reading import BodyReader
from engine.server.network.request_ids import RequestIdMiddleware, log_failure
from engine.server.protocol.errors import ENGINE_UNAVAILABLE, RequestError
from engine.server.protocol.request_body import parse_json, validate
from engine.server.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EraseRequest,
    validate_tokenize,
)
from engine.server.protocol.responses import (
    ChatResponseFormat,
    CompletionResponseFormat,
    ResponseFormat,
    encode,
    encode_tokens,
    has_many_logprobs,
)
from engine.server.protocol.responses_api import validate_responses
from engine.server.serving import ServingService
from engine.server.traces import TraceContextMiddleware

CLIENT_CLOSED_REQUEST = 499  # nginx's status for this; the client has disconnected and never sees it

MAX_INLINE_BYTES = 1 << 14  # of a body that is parsed on the event loop
METHOD_NOT_ALLOWED = 405

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


def build_app(
    service: ServingService,
    metrics: Metrics,
    *,
    access: AccessPolicy,
    api_key: str | None,
    max_body: int,
    stream_interval: float = 0.0,
    traced: bool = False,
) -> ASGIApp:
    """`max_body` in bytes; `stream_interval`: seconds for which a stream gathers tokens after each event, 0: none.

    `traced`: whether a request's trace is read from its headers.
    """

    bodies = BodyReader(max_body)
    parser = ThreadPoolExecutor(1, "parse")

    async def read(request: Request, check: Callable[[dict[str, object]], T]) -> T:
        """The body as `check` takes it; a large one is parsed and checked on another thread."""
        _require_json(request)
        async with bodies.body(request) as body:
            if len(body) <= MAX_INLINE_BYTES:
                return check(parse_json(body))
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(parser, lambda: check(parse_json(body)))

    async def respond(request: Request, choices: Choices, response_format: ResponseFormat, streamed: bool) -> Response:
        if streamed:
            return EventStream(choices, response_format, stream_interval)
        return await _complete_response(request, choices, response_format)

    async def chat(request: Request) -> Response:
        asked = await read(request, partial(validate, ChatRequest))
        response_format = ChatResponseFormat(service.name, include_usage=asked.stream_options.include_usage)
        return await respond(request, await service.chat(asked), response_format, asked.stream)

    async def complete(request: Request) -> Response:
        asked = await read(request, partial(validate, CompletionRequest))
        choices, echoed = await service.complete(asked)
        response_format = CompletionResponseFormat(
            service.name, include_usage=asked.stream_options.include_usage, echoed=echoed
        )
        return await respond(request, choices, response_format, asked.stream)

    async def responses(request: Request) -> Response:
        asked, response_format = await read(request, partial(validate_responses, service.name))
        try:
            choices = await service.chat(asked)
        except RequestError as error:
            raise response_format.renamed(error) from error
        return await respond(request, choices, response_format, asked.stream)

    async def tokenize(request: Request) -> Response:
        body = await service.tokenize(await read(request, validate_tokenize))
        return _encoded_response(await asyncio.to_thread(encode_tokens, body))

    async def detokenize(request: Request) -> Response:
        asked = await read(request, partial(validate, DetokenizeRequest))
        return _json_response({"prompt": await service.detokenize(asked.tokens)})

    async def erase(request: Request) -> Response:
        return _json_response(await service.erase(await read(request, partial(validate, EraseRequest))))

    async def models(_request: Request) -> Response:
        return _json_response({"object": "list", "data": [service.model_card()]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            raise RequestError("There is no such model here.", param="model", code="model_not_found", status=404)
        return _json_response(service.model_card())

    async def health(_request: Request) -> Response:
        status, body = service.health()
        return _json_response(body, status)

    async def scrape(_request: Request) -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def authorized(handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            if api_key is not None and not _has_key(request, api_key):
                message = "A valid API key is needed: Authorization: Bearer …"
                raise RequestError(message, code="invalid_api_key", status=401)
            return await handler(request)

        return checked

    async def on_request_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestError):
            raise error
        if error.code == ENGINE_UNAVAILABLE:
            log_failure(request.scope, error.message)
        metrics.request_refused(error.status)
        response = _json_response(error.body(), error.status)
        if error.retry_after is not None:
            response.headers["retry-after"] = str(error.retry_after)
        if error.close:
            response.headers["connection"] = "close"
        if error.status == 401:
            response.headers["www-authenticate"] = "Bearer"
        return response

    async def on_http_error(_request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        code = "method_not_allowed" if error.status_code == METHOD_NOT_ALLOWED else "not_found"
        body = RequestError(f"{error.detail}.", status=error.status_code, code=code).body()
        return Response(encode(body), error.status_code, media_type="application/json", headers=error.headers)

    async def on_disconnect(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    # Probes and scrapers bring no key: /health and /metrics show nothing of a dialog.
    routes = [
        Route("/v1/chat/completions", authorized(chat), methods=["POST"]),
        Route("/v1/completions", authorized(complete), methods=["POST"]),
        Route("/v1/responses", authorized(responses), methods=["POST"]),
        Route("/v1/models", authorized(models), methods=["GET"]),
        Route("/v1/models/{name:path}", authorized(model), methods=["GET"]),
        Route("/tokenize", authorized(tokenize), methods=["POST"]),
        Route("/detokenize", authorized(detokenize), methods=["POST"]),
        Route("/cache/erase", authorized(erase), methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        Route("/metrics", scrape, methods=["GET"]),
    ]
    handlers = {RequestError: on_request_error, HTTPException: on_http_error, ClientDisconnect: on_disconnect}
    app = AccessMiddleware(Starlette(routes=routes, exception_handlers=handlers), access)
    return RequestIdMiddleware(TraceContextMiddleware(app) if traced else app)


def _json_response(body: object, status: int = 200) -> Response:
    return _encoded_response(encode(body), status)


def _encoded_response(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _has_key(request: Request, api_key: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Headers are decoded as Latin-1, whatever the client meant.
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), api_key.encode())


def _require_json(request: Request) -> None:
    """Raises RequestError (415). A web page may send other types to any server without asking it first."""
    for coding in ",".join(request.headers.getlist("content-encoding")).split(","):
        if coding.strip().lower() not in ("", "identity"):
            message = "The body must be sent as it is, without a Content-Encoding."
            raise RequestError(message, code="unsupported_media_type", status=415)
    for value in request.headers.getlist("content-type") or [""]:
        kind = value.partition(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            message = "The body must be sent with Content-Type: application/json."
            raise RequestError(message, code="unsupported_media_type", status=415)


async def _complete_response(request: Request, choices: Choices, response_format: ResponseFormat) -> Response:
    async with _cancel_on_disconnect(choices, request.receive):
        complete = await choices.complete()
    if complete is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    usage = choices.usage
    if has_many_logprobs(complete):
        return _encoded_response(await asyncio.to_thread(response_format.complete, complete, usage))
    return _encoded_response(response_format.complete(complete, usage))


class EventStream(Response):
    """Server-sent events of one response. An error is an event of its own, and then there is no `[DONE]`."""

    media_type = "text/event-stream"

    def __init__(self, choices: Choices, response_format: ResponseFormat, interval: float) -> None:
        """`interval`: seconds for which tokens are gathered after each event."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._choices = choices
        self._format = response_format
        self._interval = interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the ASGI interface of a response."""
        async with _cancel_on_disconnect(self._choices, receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in self._chunks(scope):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, scope: Scope) -> AsyncIterator[bytes]:
        streams = self._choices.streams
        for index in range(len(streams)):
            if first := self._format.first_chunk(index):
                yield first
        num_ended = 0
        try:
            async with contextlib.aclosing(self._choices.texts(self._interval)) as texts:
                async for index, text in texts:
                    stream = streams[index]
                    fields = stream.take_fields()
                    calls = {"tool_calls": fields.pop("tool_calls")} if "tool_calls" in fields else {}
                    if fields and (chunk := self._format.fields_delta(fields, index)):
                        yield chunk
                    if text:
                        yield self._format.delta(text, index, stream.take_logprobs())
                    if calls:  # after the text, as the model wrote them
                        yield self._format.fields_delta(calls, index)
                    if not text and stream.end is not None:
                        num_ended += 1
                        yield self._format.last_chunk(index, stream.end, stream.take_logprobs())
        except RequestError as error:
            log_failure(scope, error.message)
            yield self._format.error(error)
            return
        if num_ended == len(streams):
            yield self._format.end(self._choices.usage)


@contextlib.asynccontextmanager
async def _cancel_on_disconnect(choices: Choices, receive: Receive) -> AsyncIterator[None]:
    """Cancels the request as soon as the client disconnects, and in any case at the end of the block."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        choices.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        choices.cancel()
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
