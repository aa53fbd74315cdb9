"""/metrics (Prometheus): requests by outcome, tokens, latencies, and the engine's own statistics.

Knows names and buckets, not how anything is measured. Shows nothing of a dialog, and no label that a client controls.
"""

import os
from collections.abc import Callable, Iterable
from math import isinf

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.core.stats import EngineStats, Histogram
from engine.server.protocol.responses import Usage

PREFIX = "guildllama_engine"
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3, 2.5, 5, 10, 20, 40, 80)
REPLY_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The server's metrics, in a registry of their own so that a process may have several servers."""

    def __init__(self, read_stats: Callable[[], EngineStats | None]) -> None:
        """`read_stats` is called at each scrape; None: the engine has not started."""
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            f"{PREFIX}_requests", "Requests by outcome", ["outcome"], registry=self._registry
        )
        for outcome in ("stop", "length", "repetition", "cancelled", "error", "refused", "busy"):
            self._requests.labels(outcome)
        self._prompt_tokens = prometheus.Counter(
            f"{PREFIX}_prompt_tokens", "Prompt tokens of finished requests", registry=self._registry
        )
        self._reply_tokens = prometheus.Counter(
            f"{PREFIX}_reply_tokens", "Completion tokens of finished requests", registry=self._registry
        )
        self._first_token_seconds = prometheus.Histogram(
            f"{PREFIX}_first_token_seconds",
            "Time from submission to the first token",
            buckets=FIRST_TOKEN_BUCKETS,
            registry=self._registry,
        )
        self._reply_seconds = prometheus.Histogram(
            f"{PREFIX}_reply_seconds",
            "Time from submission to the end of the response",
            buckets=REPLY_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_EngineCollector(read_stats))

    def first_token(self, seconds: float) -> None:
        """A response has its first token, `seconds` after its request was submitted."""
        self._first_token_seconds.observe(seconds)

    def response_ended(self, outcome: str, usage: Usage, seconds: float) -> None:
        """A response has ended, `seconds` after its request was submitted."""
        self._requests.labels(outcome).inc()
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._reply_tokens.inc(usage.completion_tokens)
        self._reply_seconds.observe(seconds)

    def request_refused(self, status: int) -> None:
        """A request was answered with an error body and this HTTP status."""
        self._requests.labels({429: "busy", 503: "error"}.get(status, "refused")).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return prometheus.generate_latest(self._registry)


class _EngineCollector(Collector):
    """Reads the engine's statistics at each scrape; costs nothing between scrapes."""

    def __init__(self, read_stats: Callable[[], EngineStats | None]) -> None:
        self._read_stats = read_stats

    def describe(self) -> Iterable[Metric]:
        return ()  # keeps `register` from calling `collect`

    def collect(self) -> Iterable[Metric]:
        stats = self._read_stats()
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        yield GaugeMetricFamily(f"{PREFIX}_up", "1 once the model is loaded", value=0 if stats is None else 1)
        yield CounterMetricFamily(
            f"{PREFIX}_restarts",
            "Restarts of the process group by its launcher",
            value=int(restarts) if restarts.isdecimal() else 0,
        )
        if stats is not None:
            yield from _gauges(stats)
            yield from _counters(stats)
            yield _histogram("step_seconds", "Time of one step", stats.step_time)
            yield _histogram("queue_seconds", "Time from submission to the first step", stats.queue_time)


def _gauges(stats: EngineStats) -> Iterable[Metric]:
    for name, text, value in (
        ("running", "Requests in the running batch", stats.running),
        ("waiting", "Requests in the queue", stats.waiting),
        ("kv_used_tokens", "KV cache used by requests, in tokens", stats.kv_tokens_used),
        ("kv_cached_tokens", "KV cache that only holds prefixes for later requests, in tokens", stats.kv_tokens_cached),
        ("kv_total_tokens", "Size of the KV cache, in tokens", stats.kv_tokens_total),
        ("kv_host_used_tokens", "KV cache kept in the host's memory, in tokens", stats.kv_host_tokens_used),
        ("kv_host_total_tokens", "Size of the KV cache in the host's memory, in tokens", stats.kv_host_tokens_total),
    ):
        yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
    memory = GaugeMetricFamily(f"{PREFIX}_rank_memory_bytes", "Device memory used by each rank", labels=["rank"])
    for rank, used in enumerate(stats.rank_memory):
        memory.add_metric([str(rank)], used)
    yield memory


def _counters(stats: EngineStats) -> Iterable[Metric]:
    for name, text, value in (
        ("prefill_tokens", "Prompt tokens computed", stats.prompt_tokens_computed),
        ("prefix_hit_tokens", "Prompt tokens found in the prefix cache", stats.prompt_tokens_cached),
        ("kv_saved_tokens", "Tokens whose KV was copied to the host's memory", stats.kv_tokens_saved),
        ("kv_restored_tokens", "Tokens whose KV was copied back from the host's memory", stats.kv_tokens_restored),
        ("kv_reloaded_tokens", "Tokens whose KV came from the files of the engine before", stats.kv_tokens_reloaded),
        ("kv_evicted_tokens", "Tokens whose KV was lost because others needed the memory", stats.kv_tokens_evicted),
        ("generated_tokens", "Tokens sampled; the rate is tokens per second", stats.tokens_generated),
        ("drafted_tokens", "Drafts of next tokens that steps verified", stats.drafted_tokens),
        ("accepted_draft_tokens", "Drafts of next tokens that were right", stats.accepted_tokens),
        ("preemptions", "Requests preempted because the KV cache was full", stats.preemptions),
        ("steps", "Steps of the running batch", stats.steps),
    ):
        yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    buckets = [("+Inf" if isinf(bound) else str(bound), count) for bound, count in histogram.cumulative]
    return HistogramMetricFamily(f"{PREFIX}_{name}", text, buckets=buckets, sum_value=histogram.total)
