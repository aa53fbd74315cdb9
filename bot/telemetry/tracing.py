"""Spans of one message, from the gateway's event to its last edit, for OpenTelemetry. Off until there is a tracer.

The libraries are the extra `traces`, imported only then; before, a span is a context manager that does nothing. A span
has ids of guilds and turns, numbers and outcomes: no text, no member, and of an error its type alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

Value = str | int | float | bool
_NOTHING: contextlib.nullcontext[None] = contextlib.nullcontext()
_PREFIX = "guildllama."
_MAX_ARRIVAL_AGE = 60.0

_tracer: Tracer | None = None


class _Arrival:
    """An event of the gateway, and what happened to it before its span began. Times are of time.time_ns()."""

    __slots__ = ("at", "marks")

    def __init__(self) -> None:
        self.at = time.time_ns()
        self.marks: list[tuple[str, int]] = []


_arrival: ContextVar[_Arrival | None] = ContextVar("arrival", default=None)


def use_tracer(tracer: Tracer | None) -> None:
    """Make spans with this tracer from now on; None: make none."""
    global _tracer
    _tracer = tracer


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
