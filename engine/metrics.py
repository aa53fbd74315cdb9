"""What /metrics shows (Prometheus): requests by outcome, tokens, times; and what the engine says of itself when asked.

Knows names and buckets, not how anything is measured. Nothing of a dialog, and no label that a client could fill.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.shapes import Usage

PREFIX = "guildllama_engine"
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3, 2.5, 5, 10, 20, 40, 80)
REPLY_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the engine knows of itself at one moment; counts are since its start."""

    running: int
    waiting: int
    kv_tokens_used: int
    kv_tokens_total: int
    prompt_tokens_computed: int
    prompt_tokens_cached: int
    tokens_generated: int
    preemptions: int
    step_seconds: float
    step_buckets: Sequence[tuple[float, int]]
    """Upper bound in seconds -> steps of at most that long, cumulative; the last bound is infinity."""
    rank_memory: Sequence[int]
    """Bytes that each rank holds on its device."""


class Metrics:
    """One registry of this server's own: nothing global, so that tests and processes may have several."""

    def __init__(self, read: Callable[[], Figures | None]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            f"{PREFIX}_requests", "Requests by how they ended", ["outcome"], registry=self._registry
        )
        for outcome in ("stop", "length", "cancelled", "error", "refused", "busy"):
            self._requests.labels(outcome)
        self._prompt = Counter(f"{PREFIX}_prompt_tokens", "Prompt tokens of ended requests", registry=self._registry)
        self._reply = Counter(f"{PREFIX}_reply_tokens", "Tokens of ended replies", registry=self._registry)
        self._first = Histogram(
            f"{PREFIX}_first_token_seconds",
            "From admission to the first token",
            buckets=FIRST_TOKEN_BUCKETS,
            registry=self._registry,
        )
        self._whole = Histogram(
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
        return generate_latest(self._registry)


class _EngineFigures(Collector):
    """Asks the engine when somebody scrapes; between scrapes it costs nothing."""

    def __init__(self, read: Callable[[], Figures | None]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return ()  # keeps the registry from collecting while it is being built

    def collect(self) -> Iterable[Metric]:
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") or 0)
        yield GaugeMetricFamily(f"{PREFIX}_up", "1 once the model answers", value=0 if self._read() is None else 1)
        yield CounterMetricFamily(f"{PREFIX}_restarts", "Restarts of the group by its launcher", value=restarts)
        figures = self._read()
        if figures is None:
            return
        gauges = {
            "running": ("Requests that are being computed", figures.running),
            "waiting": ("Requests in the queue", figures.waiting),
            "kv_used_tokens": ("Tokens that the KV cache holds for running requests", figures.kv_tokens_used),
            "kv_total_tokens": ("Tokens that the KV cache can hold", figures.kv_tokens_total),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
        counters = {
            "prefill_tokens": ("Prompt tokens that were computed", figures.prompt_tokens_computed),
            "prefix_hit_tokens": ("Prompt tokens that came from the prefix cache", figures.prompt_tokens_cached),
            "generated_tokens": ("Tokens sampled; its rate is tokens per second", figures.tokens_generated),
            "preemptions": ("Requests put back into the queue for want of memory", figures.preemptions),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
        yield HistogramMetricFamily(
            f"{PREFIX}_step_seconds",
            "Time of one step of the running batch",
            buckets=[("+Inf" if bound == float("inf") else str(bound), count) for bound, count in figures.step_buckets],
            sum_value=figures.step_seconds,
        )
        memory = GaugeMetricFamily(f"{PREFIX}_rank_memory_bytes", "Memory of each rank on its device", labels=["rank"])
        for rank, held in enumerate(figures.rank_memory):
            memory.add_metric([str(rank)], held)
        yield memory
