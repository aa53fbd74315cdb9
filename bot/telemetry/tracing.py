"""Spans of one message, from the gateway's event to its last edit, for OpenTelemetry. Off until `start_tracing`.

The libraries are the extra `traces`, imported only then; before, a span is a context manager that does nothing. A span
has ids of guilds and turns, numbers and outcomes: no text, no member, and of an error its type alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

log = structlog.get_logger(__name__)

Value = str | int | float | bool
MISSING = "needs OpenTelemetry, which is not installed"
INSTALL = "Run `pip install 'guildllama[traces]'`."
SERVICE = "guildllama"
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_NOTHING: contextlib.nullcontext[None] = contextlib.nullcontext()
_PREFIX = "guildllama."
_FLUSH_SECONDS = 3.0
_EXPORT_SECONDS = 5.0
_WARNING_INTERVAL = 600.0
_MAX_ARRIVAL_AGE = 60.0

_tracer: Tracer | None = None


class _Arrival:
    """An event of the gateway, and what happened to it before its span began. Times are of time.time_ns()."""

    __slots__ = ("at", "marks")

    def __init__(self) -> None:
        self.at = time.time_ns()
        self.marks: list[tuple[str, int]] = []


_arrival: ContextVar[_Arrival | None] = ContextVar("arrival", default=None)


class Tracing:
    """The spans of this process on their way to a collector, until `close`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def close(self) -> None:
        """Send what is left, for some seconds at most, and let spans do nothing again. Blocks."""
        global _tracer
        _tracer = None
        # A collector that is away would hold it up for half a minute.
        sending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(_FLUSH_SECONDS)


def start_tracing(exporter: SpanExporter, *, ratio: float = 1.0, batched: bool = True) -> Tracing:
    """Send spans to this exporter from now on; `ratio`: of how many messages. Raises ImportError without the extra.

    Not `batched`, each span is exported as it ends: for tests.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    global _tracer
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: SERVICE}),
        sampler=ParentBasedTraceIdRatio(ratio),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter) if batched else SimpleSpanProcessor(exporter))
    _tracer = provider.get_tracer(SERVICE)
    return Tracing(provider)


def tracing_is_installed() -> bool:
    """Whether the extra is there."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:
        return False


def otlp_exporter(url: str) -> SpanExporter:
    """The exporter to a collector at this URL, over OTLP and HTTP. Raises ImportError without the extra.

    It logs now and then that spans were lost. OpenTelemetry itself would log each attempt, twice a second.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Exporter(OTLPSpanExporter):
        warned_at = -_WARNING_INTERVAL

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS and time.monotonic() - self.warned_at >= _WARNING_INTERVAL:
                self.warned_at = time.monotonic()
                log.warning("traces could not be sent and are lost", url=url)
            return result

    return Exporter(endpoint=url, timeout=_EXPORT_SECONDS)


# ── what the message path calls ─────────────────────────────────────────────────────────────────────────────────────


def event_arrived() -> None:
    """An event came from the gateway: the tasks that are started for it belong to it."""
    if _tracer is not None:
        _arrival.set(_Arrival())


def mark(name: str) -> None:
    """Something happened to the event before its span began, such as that it was acknowledged."""
    arrival = _arrival.get() if _tracer is not None else None
    if arrival is not None:
        arrival.marks.append((name, time.time_ns()))


def message_span(**values: Value) -> contextlib.AbstractContextManager[Span | None]:
    """The span of one message, from its event on. Spans within this block are parts of it."""
    return _NOTHING if _tracer is None else _message_span(_tracer, values)


def span(name: str, **values: Value) -> contextlib.AbstractContextManager[Span | None]:
    """The span of a part of a message; nothing outside of one."""
    return _NOTHING if _tracer is None else _part(_tracer, name, values)


def note(**values: Value) -> None:
    """Add values to the span of this block."""
    if _tracer is not None:
        from opentelemetry import trace

        _set(trace.get_current_span(), values)


def event(name: str) -> None:
    """Something happened in the span of this block."""
    if _tracer is not None:
        from opentelemetry import trace

        trace.get_current_span().add_event(name)


def trace_headers() -> Mapping[str, str]:
    """The headers that let a server continue this trace: `traceparent`, or none."""
    if _tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


def trace_id() -> str | None:
    """The id of this trace, for the log."""
    if _tracer is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else None


@contextlib.contextmanager
def _message_span(tracer: Tracer, values: Mapping[str, Value]) -> Iterator[Span]:
    from opentelemetry import context, trace

    arrival = _arrival.get()
    if arrival is not None and time.time_ns() - arrival.at > _MAX_ARRIVAL_AGE * 1e9:
        arrival = None  # of an event that this message has nothing to do with
    began = tracer.start_span(
        "message", context=context.Context(), kind=trace.SpanKind.SERVER, start_time=arrival.at if arrival else None
    )
    for name, at in arrival.marks if arrival else ():
        began.add_event(name, timestamp=at)
    _set(began, values)
    with _current(began):
        yield began


@contextlib.contextmanager
def _part(tracer: Tracer, name: str, values: Mapping[str, Value]) -> Iterator[Span | None]:
    from opentelemetry import trace

    if not trace.get_current_span().get_span_context().is_valid:
        yield None
        return
    began = tracer.start_span(name)
    _set(began, values)
    with _current(began):
        yield began


@contextlib.contextmanager
def _current(began: Span) -> Iterator[None]:
    """Make this the span of the block, and end it with the block. Of an error it has the type: texts quote members."""
    from opentelemetry import trace

    try:
        with trace.use_span(began, record_exception=False, set_status_on_exception=False):
            yield
    except BaseException as error:
        began.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        began.end()


def _set(began: Span, values: Mapping[str, Value]) -> None:
    for name, value in values.items():
        began.set_attribute(_PREFIX + name, value)
