"""What planning brings: a step, what its ids mean for the requests, and the counts of all that. No rules."""

from collections import Counter
from dataclasses import dataclass, field

from engine.scheduler.request import FinishReason, Request
from engine.scheduler.step_plan import Plan


@dataclass(frozen=True, slots=True)
class Step:
    """A plan and whose tokens it samples: a row may belong to another request by the time the ids are back."""

    plan: Plan
    sampled: tuple[tuple[int, Request], ...]
    entered: tuple[Request, ...] = ()  # had never run before


@dataclass(frozen=True, slots=True)
class Output:
    """What a step brought for a request: `ids` without the stop token, and how it ended if it did."""

    request: Request
    ids: tuple[int, ...]
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Totals:
    """Counts since the start, for the metrics."""

    prompt_tokens: int = 0
    computed_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    preemptions: int = 0
    steps: int = 0
