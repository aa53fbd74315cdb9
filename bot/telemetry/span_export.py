"""Sends the spans of this process to a collector. OpenTelemetry's libraries are the extra `traces`.

Knows no message; `tracing` beside it makes the spans.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from bot.telemetry.tracing import use_tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = structlog.get_logger(__name__)

MISSING = "needs OpenTelemetry, which is not installed"
INSTALL = "Run `pip install 'guildllama[traces]'`."
SERVICE = "guildllama"
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_FLUSH_SECONDS = 3.0
_EXPORT_SECONDS = 5.0
_WARNING_INTERVAL = 600.0


class Tracing:
    """The spans of this process on their way to a collector, until `close`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def close(self) -> None:
        """Send what is left, for some seconds at most, and let spans do nothing again. Blocks."""
        use_tracer(None)
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

    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: SERVICE}),
        sampler=ParentBasedTraceIdRatio(ratio),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter) if batched else SimpleSpanProcessor(exporter))
    use_tracer(provider.get_tracer(SERVICE))
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
