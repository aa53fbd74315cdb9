"""The step that is being planned: what is in it so far, and which requests can no longer join. No rules."""

from dataclasses import dataclass, field

from engine.scheduler.fairness import PredictedDemand
from engine.scheduler.request import Request
from engine.scheduler.step_plan import PrefillChunk


@dataclass(frozen=True, slots=True)
class BudgetDonation:
    """Prefill budget that a blocked request gives to the one that computes the page it waits for."""

    receiver: Request
    max_tokens: int  # up to the end of the pages that both requests share


@dataclass(slots=True)
class StepDraft:
    """The requests of a step by what they do in it. Decode requests and chunks are in the order of the plan."""

    decode_requests: dict[Request, None] = field(default_factory=dict)
    chunks: list[tuple[Request, PrefillChunk]] = field(default_factory=list)
    drafts: dict[Request, tuple[int, ...]] = field(default_factory=dict)  # tokens that decode requests verify
    new_requests: list[Request] = field(default_factory=list)  # admitted for the first time
    prefilling: set[Request] = field(default_factory=set)  # have a chunk, so they must not be preempted in this step
    skipped: set[Request] = field(default_factory=set)  # get no (further) chunk in this step
    blocked: set[Request] = field(default_factory=set)  # skipped until another request computes something
    demand: PredictedDemand | None = None  # computed when first needed
    preempted: bool = False  # some request lost its row
    out_of_room: bool = False  # some request was refused: from now on admit only clients that hold no row
    admission_closed: bool = False  # admit no request

    @property
    def num_draft_tokens(self) -> int:
        """Tokens that are drafts."""
        return sum(map(len, self.drafts.values()))

    def drop(self, request: Request) -> None:
        """Take out a request that is preempted: it does nothing more in this step."""
        self.decode_requests.pop(request, None)
        self.drafts.pop(request, None)
        self.skipped.add(request)
        self.preempted = True
