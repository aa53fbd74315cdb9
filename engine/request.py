"""A request as the scheduler sees it: token ids and limits. No text, no torch, no asyncio."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from engine.kv_cache import Hold

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request samples and when it ends. temperature <= 0 is greedy; `seed` None lets the engine choose one.

    `max_tokens` None means up to the end of the context. A token in `stop_ids` ends the reply and is not part of it.
    """

    temperature: float = 0.6
    top_p: float = 0.9
    max_tokens: int | None = 512
    stop_ids: frozenset[int] = frozenset()
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """`cached_tokens` of the prompt came from pages that an earlier request had computed."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One request from submission to its end. `tokens` holds the prompt and every output token that is known."""

    id: int
    tokens: list[int]
    params: SamplingParams
    seed: int
    client: str
    tenant: str
    limit: int  # tokens, prompt included, at which it ends with "length"
    arrived: float = 0.0
    on_output: Callable[["Request", list[int]], None] | None = None
    prompt: int = field(init=False)  # length of the prompt
    state: State = State.WAITING
    finish_reason: FinishReason | None = None
    row: int = -1
    fed: int = 0  # tokens whose keys and values are in the pages, or will be once the planned steps have run
    pending: int = 0  # sampled tokens whose ids have not come back yet
    cached: int | None = None  # prompt tokens that no step of this request computed; None until it is first admitted
    admitted: int = -1  # a serial number: later admissions are preempted first
    hold: Hold | None = None

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)

    @property
    def sampled(self) -> int:
        """Tokens of the sequence once the planned steps have run."""
        return len(self.tokens) + self.pending

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt :]
