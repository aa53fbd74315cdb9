"""A request as the scheduler sees it: token ids and limits. No text, no torch, no asyncio."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from engine.scheduler.kv_cache_manager import PageTable

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request samples and when it ends. temperature <= 0 is greedy; `seed` None lets the engine choose one.

    `max_tokens` None means up to the end of the context. A token in `stop_ids` ends the reply and is not part of it.
    """

    temperature: float = 0.6
    top_p: float = 0.9
    max_tokens: int | None = 512
    stop_token_ids: frozenset[int] = frozenset()
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """`cached_tokens` of the prompt were there already: an earlier or a concurrent request had computed them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class RequestStatus(Enum):
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One request from submission to its end. `tokens` holds the prompt and every output token that is known."""

    id: int
    token_ids: list[int]
    params: SamplingParams
    seed: int = 0
    client: str = ""
    tenant: str = ""
    max_total_tokens: int = 0  # tokens, prompt included, at which it ends with "length"
    num_prompt_tokens: int = field(init=False)  # length of the prompt
    status: RequestStatus = RequestStatus.WAITING
    finish_reason: FinishReason | None = None
    row: int = -1
    page_table: PageTable = field(init=False)
    num_sent_pages: int = 0  # pages of `hold` that the runners know of
    num_computed_tokens: int = 0  # tokens whose keys and values are in the pages once the planned steps have run
    num_in_flight_tokens: int = 0  # sampled tokens whose ids have not come back yet
    num_prefilled_tokens: int = 0  # prompt tokens that steps of this request computed before its first output token
    admission_index: int = -1  # a serial number: among its equals, whoever came last is preempted first

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)
        self.page_table = PageTable(self.tenant)

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens of the sequence once the planned steps have run."""
        return len(self.token_ids) + self.num_in_flight_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def usage(self) -> Usage:
        output = len(self.token_ids) - self.num_prompt_tokens
        cached = (
            max(0, self.num_prompt_tokens - self.num_prefilled_tokens)
            if self.status in (RequestStatus.DECODE, RequestStatus.FINISHED) or output
            else 0
        )
        return Usage(self.num_prompt_tokens, output, cached)
