"""A request as the scheduler sees it: token ids, limits and progress. No text, no torch, no asyncio."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from engine.logits_params import NEUTRAL, Adjustment, LogitsParams, TokenConstraint
from engine.scheduler.drafts.source import DraftSource
from engine.scheduler.kv_cache.page_table import PageTable

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a request samples, and when it ends."""

    temperature: float = 0.6  # <= 0: greedy
    top_p: float = 0.9
    max_tokens: int | None = 512  # of output; None: up to the end of the context
    stop_token_ids: frozenset[int] = frozenset()  # each ends the reply and is not part of it
    seed: int | None = None  # None: the engine chooses one
    ignore_eos: bool = False  # ignore `stop_token_ids`
    logits: LogitsParams = NEUTRAL
    num_logprobs: int | None = None  # the most likely tokens to return with each token, beside itself; None: nothing


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request. `cached_tokens` of the prompt were computed for an earlier or a concurrent request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class RequestStatus(Enum):
    """WAITING has no row, PREFILL and DECODE have one; a preempted request is WAITING again."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One request from submission to its end."""

    id: int
    token_ids: list[int]  # the prompt, then every output token whose id has been read
    params: SamplingParams
    seed: int = 0
    client: str = ""
    tenant: str = ""
    constraint: TokenConstraint | None = None  # of the output
    max_total_tokens: int = 0  # prompt and output tokens at which it ends with "length"
    num_prompt_tokens: int = field(init=False)
    status: RequestStatus = RequestStatus.WAITING
    finish_reason: FinishReason | None = None
    row: int = -1  # its place in the persistent batch; -1: none
    page_table: PageTable = field(init=False)
    num_sent_pages: int = 0  # pages of the table that plans have granted to the runners
    # Tokens whose keys and values are in the pages once the scheduled steps have run, if all their drafts are right.
    num_computed_tokens: int = 0
    num_in_flight_tokens: int = 0  # the most tokens that scheduled steps sample, whose ids have not been read
    in_flight_drafts: list[tuple[int, ...]] = field(default_factory=list)  # of each of these steps; () for none
    num_prefilled_tokens: int = 0  # prompt tokens that were computed for this request before its first output token
    admission_index: int = -1  # serial number of its last admission; -1: never admitted
    draft_source: DraftSource | None = None  # of its next tokens, once it decodes where drafts are verified
    is_erased: bool = False  # its tenant was erased after it had arrived

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)
        self.page_table = PageTable(self.tenant)

    @property
    def is_adjusted(self) -> bool:
        """Whether its logits are changed before a token is sampled."""
        return self.constraint is not None or self.params.logits != NEUTRAL

    def adjustment(self) -> Adjustment | None:
        """What the runner must know about an adjusted request, whose ids have all been read, when it gets a row."""
        if not self.is_adjusted:
            return None
        params, num_output = self.params, len(self.token_ids) - self.num_prompt_tokens
        stop_ids = () if params.ignore_eos else tuple(sorted(params.stop_token_ids))
        history = tuple(self.token_ids) if params.logits.has_penalties else ()
        return Adjustment(params.logits, history, self.num_prompt_tokens, num_output, stop_ids)

    @property
    def num_scheduled_tokens(self) -> int:
        """Length of the sequence once the scheduled steps have run, if all their drafts are right."""
        return len(self.token_ids) + self.num_in_flight_tokens

    @property
    def output_token_ids(self) -> list[int]:
        """The reply so far."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def usage(self) -> Usage:
        """Tokens so far. Cached tokens are known once the prefill is complete."""
        output = len(self.token_ids) - self.num_prompt_tokens
        cached = (
            max(0, self.num_prompt_tokens - self.num_prefilled_tokens)
            if self.status in (RequestStatus.DECODE, RequestStatus.FINISHED) or output
            else 0
        )
        return Usage(self.num_prompt_tokens, output, cached)
