"""What the engine knows of itself at one moment, for metrics and benchmarks. Plain numbers, counts since the start."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

STEP_BOUNDS: Final = (0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.064, 0.128, 0.256, 0.5, 1.0, 2.0, 4.0)
WAIT_BOUNDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)


@dataclass(slots=True)
class Histogram:
    """Counts of observations up to each bound; the last count is of those beyond all bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> "Histogram":
        return Histogram(self.bounds, list(self.counts), self.total)

    @property
    def cumulative(self) -> tuple[tuple[float, int], ...]:
        """Upper bound -> observations of at most that, as Prometheus wants them; the last bound is infinity."""
        seen, out = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            out.append((bound, seen))
        return tuple(out)


@dataclass(frozen=True, slots=True)
class EngineStats:
    running: int
    waiting: int
    kv_tokens_used: int  # held by requests
    kv_tokens_cached: int  # kept for later prompts only
    kv_tokens_total: int
    prompt_tokens: int
    prompt_tokens_computed: int  # preempted requests may compute some twice
    prompt_tokens_cached: int
    tokens_generated: int
    preemptions: int
    steps: int
    finished: dict[str, int]  # by finish reason
    step_time: Histogram
    queue_time: Histogram  # from submission to the first step
    first_token_time: Histogram  # from submission to the first id
    rank_memory: tuple[int, ...]  # bytes
