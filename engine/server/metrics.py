"""What /metrics shows (Prometheus): requests by outcome, tokens, times; and what the engine says of itself when asked.

Knows names and buckets, not how anything is measured. Nothing of a dialog, and no label that a client could fill.
"""

import os
from collections.abc import Callable, Iterable
from math import isinf

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.core.stats import EngineStats, Histogram
from engine.server.responses import Usage

PREFIX = "guildllama_engine"
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3, 2.5, 5, 10, 20, 40, 80)
REPLY_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """One registry of this server's own: nothing global, so that tests and processes may have several."""

    def __init__(self, read: Callable[[], EngineStats | None]) -> None:
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            f"{PREFIX}_requests", "Requests by how they ended", ["outcome"], registry=self._registry
        )
        for outcome in ("stop", "length", "cancelled", "error", "refused", "busy"):
            self._requests.labels(outcome)
        self._prompt = prometheus.Counter(
            f"{PREFIX}_prompt_tokens", "Prompt tokens of ended requests", registry=self._registry
        )
        self._reply = prometheus.Counter(f"{PREFIX}_reply_tokens", "Tokens of ended replies", registry=self._registry)
        self._first = prometheus.Histogram(
            f"{PREFIX}_first_token_seconds",
            "From admission to the first token",
            buckets=FIRST_TOKEN_BUCKETS,
            registry=self._registry,
        )
        self._whole = prometheus.Histogram(
            f"{PREFIX}_reply_seconds", "From admission to the end", buckets=REPLY_BUCKETS, registry=self._registry
        )
        self._registry.register(_EngineFigures(read))

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def ended(self, outcome: str, usage: Usage, seconds: float) -> None:
        self._requests.labels(outcome).inc()
        self._prompt.inc(usage.prompt_tokens)
        self._reply.inc(usage.completion_tokens)
        self._whole.observe(seconds)

    def refused(self, status: int) -> None:
        self._requests.labels({429: "busy", 503: "error"}.get(status, "refused")).inc()

    def render(self) -> bytes:
        return prometheus.generate_latest(self._registry)


class _EngineFigures(Collector):
    """Asks the engine when somebody scrapes; between scrapes it costs nothing."""

    def __init__(self, read: Callable[[], EngineStats | None]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return ()  # keeps the registry from collecting while it is being built

    def collect(self) -> Iterable[Metric]:
        stats = self._read()
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        yield GaugeMetricFamily(f"{PREFIX}_up", "1 while the model answers", value=0 if stats is None else 1)
        yield CounterMetricFamily(
            f"{PREFIX}_restarts",
            "Restarts of the group by its launcher",
            value=int(restarts) if restarts.isdecimal() else 0,
        )
        if stats is not None:
            yield from _gauges(stats)
            yield from _counters(stats)
            yield _histogram("step_seconds", "Time of one step of the running batch", stats.step_time)
            yield _histogram("queue_seconds", "From submission to the first step", stats.queue_time)


def _gauges(stats: EngineStats) -> Iterable[Metric]:
    for name, text, value in (
        ("running", "Requests that are being computed", stats.running),
        ("waiting", "Requests in the queue", stats.waiting),
        ("kv_used_tokens", "Tokens that the KV cache holds for requests", stats.kv_tokens_used),
        ("kv_cached_tokens", "Tokens that the KV cache keeps for later prompts only", stats.kv_tokens_cached),
        ("kv_total_tokens", "Tokens that the KV cache can hold", stats.kv_tokens_total),
    ):
        yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
    memory = GaugeMetricFamily(f"{PREFIX}_rank_memory_bytes", "Memory of each rank on its device", labels=["rank"])
    for rank, held in enumerate(stats.rank_memory):
        memory.add_metric([str(rank)], held)
    yield memory


def _counters(stats: EngineStats) -> Iterable[Metric]:
    for name, text, value in (
        ("prefill_tokens", "Prompt tokens that were computed", stats.prompt_tokens_computed),
        ("prefix_hit_tokens", "Prompt tokens that came from the prefix cache", stats.prompt_tokens_cached),
        ("generated_tokens", "Tokens sampled; its rate is tokens per second", stats.tokens_generated),
        ("preemptions", "Requests put back into the queue for want of memory", stats.preemptions),
        ("steps", "Steps of the running batch", stats.steps),
    ):
        yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    buckets = [("+Inf" if isinf(bound) else str(bound), count) for bound, count in histogram.cumulative]
    return HistogramMetricFamily(f"{PREFIX}_{name}", text, buckets=buckets, sum_value=histogram.total)
