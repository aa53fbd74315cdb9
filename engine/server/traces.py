"""Spans of requests for OpenTelemetry: preparation, queue, prefill and decode, as parts of the client's trace.

Made from the times that a request has at its end, so that no step waits for them. The libraries are the extra `traces`,
imported only where a collector is named. A span has numbers and an outcome: no text, no client and no tenant.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

    from engine.server.streaming import ResponseStream

SERVICE: Final = "guildllama-engine"
INSTALL: Final = "OpenTelemetry: pip install 'guildllama[traces]'"


class _Arrival(NamedTuple):
    """Whose trace a request belongs to, and when it came, by time.monotonic()."""

    parent: Context
    at: float


_EXPORT_SECONDS: Final = 5.0
_WARNING_INTERVAL: Final = 600.0


_arrival: ContextVar[_Arrival | None] = ContextVar("arrival", default=None)


class RequestTraces:
    """Sends the spans of requests to an exporter."""

    def __init__(self, exporter: SpanExporter, *, batched: bool = True) -> None:
        """Not `batched`, each span is exported as it ends: for tests. Raises ImportError without the extra."""
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: SERVICE}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter) if batched else SimpleSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)

    def submitted(self) -> Callable[[ResponseStream], None]:
        """Call this in the request's task, and what it returns at the end of the stream."""
        arrival = _arrival.get()
        return lambda stream: self._ended(stream, arrival)

    def close(self) -> None:
        """Send what is left. Blocks, with a collector that is away for half a minute."""
        self._provider.shutdown()

    def _ended(self, stream: ResponseStream, arrival: _Arrival | None) -> None:
        from opentelemetry import trace

        tokens, usage, now = stream.tokens, stream.usage, time.monotonic()
        offset = time.time() - now  # a span's times are of the wall clock
        began_at = tokens.submitted_at if arrival is None else arrival.at
        request = self._tracer.start_span(
            "request",
            context=None if arrival is None else arrival.parent,
            kind=trace.SpanKind.SERVER,
            start_time=_ns(began_at + offset),
        )
        request.set_attribute("guildllama.outcome", stream.outcome or "cancelled")
        request.set_attribute("guildllama.prompt_tokens", usage.prompt_tokens)
        request.set_attribute("guildllama.cached_tokens", usage.cached_tokens)
        request.set_attribute("guildllama.completion_tokens", usage.completion_tokens)
        if stream.outcome == "error":
            request.set_status(trace.Status(trace.StatusCode.ERROR))
        within = trace.set_span_in_context(request)
        for name, begin, end in (
            ("prepare", began_at, tokens.submitted_at),
            ("queue", tokens.submitted_at, tokens.first_step_at or now),
            ("prefill", tokens.first_step_at, tokens.first_token_at or now),
            ("decode", tokens.first_token_at, now),
        ):
            if begin is not None and end >= begin:
                part = self._tracer.start_span(name, context=within, start_time=_ns(begin + offset))
                part.end(_ns(end + offset))
        request.end(_ns(now + offset))


class TraceContextMiddleware:
    """Reads `traceparent`, so that a request's spans belong to the client's trace; a wrong one is ignored."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] == "http":
            from opentelemetry.context import Context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            headers = Headers(scope=scope)
            carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
            parent = TraceContextTextMapPropagator().extract(carrier, context=Context())
            _arrival.set(_Arrival(parent, time.monotonic()))
        await self._app(scope, receive, send)


def open_traces(url: str) -> RequestTraces:
    """Traces for the collector at this URL, over OTLP and HTTP. Raises ConfigError without the extra."""
    try:
        return RequestTraces(_otlp_exporter(url))
    except ImportError:
        raise ConfigError("--traces-url", expected=INSTALL, found="it is not installed") from None


def _otlp_exporter(url: str) -> SpanExporter:
    """One that says now and then that spans were lost. OpenTelemetry itself would log each attempt."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Exporter(OTLPSpanExporter):
        warned_at = -_WARNING_INTERVAL

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS and time.monotonic() - self.warned_at >= _WARNING_INTERVAL:
                self.warned_at = time.monotonic()
                sys.stderr.write("engine: traces could not be sent and are lost\n")
                sys.stderr.flush()
            return result

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return Exporter(endpoint=url, timeout=_EXPORT_SECONDS)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
