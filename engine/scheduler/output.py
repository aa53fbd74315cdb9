"""What the scheduler returns: a step, what its sampled ids mean for the requests, and running totals. Data only."""

from collections import Counter
from dataclasses import dataclass, field

from engine.logits_params import TokenLogprobs
from engine.scheduler.request import FinishReason, Request
from engine.scheduler.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """A plan, and the request that each sampled row belongs to.

    The requests are kept here because a row may belong to another request by the time its id is read.
    """

    plan: StepPlan
    sampled: tuple[tuple[int, Request], ...]  # (row, request), each once, in the order of `plan.sampled_rows`
    new_requests: tuple[Request, ...] = ()  # admitted for the first time


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """What a step produced for one request: its new ids without the stop token, and why it ended, if it did."""

    request: Request
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()  # of each new id, where the request asked for them
    error: str | None = None  # with the finish reason "error": what is wrong, if it is not the model


@dataclass(slots=True)
class SchedulerTotals:
    """Counts since the start, for the metrics."""

    prompt_tokens: int = 0  # of requests that arrived
    num_prefilled_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens that were not computed for their request
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # drafts that were right
    finished: Counter[str] = field(default_factory=Counter)  # by finish reason
    preemptions: int = 0
    steps: int = 0
