"""What planning brings: a step, what its ids mean for the requests, and the counts of all that. No rules."""

from collections import Counter
from dataclasses import dataclass, field

from engine.scheduler.request import FinishReason, Request
from engine.scheduler.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """A plan and whose tokens it samples: a row may belong to another request by the time the ids are back."""

    plan: StepPlan
    sampled: tuple[tuple[int, Request], ...]
    new_requests: tuple[Request, ...] = ()  # had never run before


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """What a step brought for a request: `ids` without the stop token, and how it ended if it did."""

    request: Request
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class SchedulerTotals:
    """Counts since the start, for the metrics."""

    prompt_tokens: int = 0
    num_prefilled_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    preemptions: int = 0
    steps: int = 0
