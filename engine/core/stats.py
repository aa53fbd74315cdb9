"""Numbers about the engine at one moment, for metrics and benchmarks. Counters count from the engine's start."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

# Upper bounds of histogram buckets, in seconds.
STEP_BOUNDS: Final = (0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.064, 0.128, 0.256, 0.5, 1.0, 2.0, 4.0)
WAIT_BOUNDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)


@dataclass(slots=True)
class Histogram:
    """`counts[i]` counts the observations in (bounds[i - 1], bounds[i]], the last count those above all bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> "Histogram":
        """A snapshot that later observations do not change."""
        return Histogram(self.bounds, list(self.counts), self.total)

    @property
    def cumulative(self) -> tuple[tuple[float, int], ...]:
        """(upper bound, observations up to it) for each bucket, as Prometheus wants them; the last bound is inf."""
        seen, out = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            out.append((bound, seen))
        return tuple(out)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What `EngineCore.stats` returns."""

    running: int  # requests that hold a row
    waiting: int
    kv_tokens_used: int  # held by requests
    kv_tokens_cached: int  # kept for later prompts only
    kv_tokens_total: int
    kv_host_tokens_used: int  # kept in the host tier, also those that a page of the device holds as well
    kv_host_tokens_total: int
    prompt_tokens: int
    prompt_tokens_computed: int  # a preempted request may compute some of them twice
    prompt_tokens_cached: int
    kv_tokens_saved: int  # copied to the host tier
    kv_tokens_restored: int  # copied back
    kv_tokens_evicted: int  # lost, from the device or from the host tier, as later ones needed the memory
    tokens_generated: int
    preemptions: int
    steps: int
    finished: dict[str, int]  # by finish reason
    step_time: Histogram
    queue_time: Histogram  # from submission to the first step
    first_token_time: Histogram  # from submission to the first token
    rank_memory: tuple[int, ...]  # bytes that each rank has allocated on its device
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # drafts that were right
    kv_tokens_reloaded: int = 0  # restored from the files of the engine before this one
