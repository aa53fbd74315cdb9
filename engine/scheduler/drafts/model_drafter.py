"""Drafts that a second, smaller model makes: how many for which rows, by what came true lately.

Each of them costs a step of that model and a token of the next step. So a row gets as many as promise the most tokens
for the time, like in `Drafter`, and none where few come true; it tries again from time to time.

It knows requests, and of the model only that it continues them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from engine.scheduler.drafts.drafter import Drafter, num_drafts
from engine.scheduler.drafts.limits import DraftLimits
from engine.scheduler.request import Request
from engine.scheduler.request_pool import RequestPool
from engine.scheduler.step_draft import StepDraft
from engine.scheduler.token_budget import TokenBudget

FIRST_RATE: Final = 0.7  # of drafts that come true, before a request has shown its own
NEWEST_WEIGHT: Final = 0.06  # of the newest draft in a rate
RECOVERY: Final = 0.02  # of the way back to the first rate, in a step that drafts nothing


class DraftModel(Protocol):
    """Continues requests, in pages of its own."""

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> dict[Request, tuple[int, ...]]:
        """Next tokens of each request, up to its limit; none if it has no pages or its prompt is not read yet."""
        ...

    def release(self) -> None:
        """Overwrite and free what belongs to requests that hold no row any more."""
        ...

    def prepare(self) -> bool:
        """As `Runner.prepare`."""
        ...

    def close(self) -> None:
        """Free all memory."""
        ...


@dataclass(slots=True)
class AcceptanceRate:
    """How often the drafts of one request come true: `DraftRates` for `num_drafts`."""

    request: Request
    value: float = FIRST_RATE
    first: int = 0  # number of tokens before the last drafts
    drafts: tuple[int, ...] = ()

    def update(self) -> None:
        """Learn from the tokens that have come since the last drafts."""
        came = self.request.token_ids[self.first :]
        if came:
            for draft, token_id in zip(self.drafts, came, strict=False):
                self.value += NEWEST_WEIGHT * ((draft == token_id) - self.value)
                if draft != token_id:
                    break
            self.drafts = ()

    def rate(self, index: int) -> float:
        """The same for each draft."""
        return self.value


class ModelDrafter(Drafter):
    """A `Drafter` whose drafts come from a model. Steps do not overlap: it needs every token that came before."""

    def __init__(
        self, pool: RequestPool, token_budget: TokenBudget, limits: DraftLimits, model: DraftModel, model_cost: float
    ) -> None:
        """`model_cost`: of a step of the draft model, in steps of the other one."""
        super().__init__(pool, token_budget, limits)
        self._model, self._model_cost = model, model_cost
        self._rates: dict[Request, AcceptanceRate] = {}

    def release(self) -> None:
        """See `DraftModel`."""
        self._model.release()
        self._rates = {request: rate for request, rate in self._rates.items() if request.finish_reason is None}

    def prepare(self) -> bool:
        """See `DraftModel`."""
        return self._model.prepare()

    def close(self) -> None:
        """See `DraftModel`."""
        self._model.close()

    def schedule(self, draft: StepDraft) -> None:
        """Choose drafts for the rows that decode in this step."""
        num_rows, remaining = len(draft.decode_requests), self._max_drafts(draft)
        if not self.limits.max_drafts or remaining <= 0:
            return
        cost, first_cost = self._costs(num_rows)
        wanted: list[tuple[Request, int]] = []
        for request in draft.decode_requests:
            if request.is_adjusted or request.num_in_flight_tokens:
                continue
            rate = self._rates.setdefault(request, AcceptanceRate(request))
            rate.update()
            limit = min(request.max_total_tokens - len(request.token_ids) - 1, remaining, self.limits.max_drafts)
            # A step of the draft model serves all rows, and is paid by those that it serves.
            count = num_drafts(rate, cost + self._model_cost, limit, first_cost=first_cost)
            count = min(count, self._room(request, count))
            if count > 0:
                wanted.append((request, count))
                remaining -= count
            else:
                rate.value += RECOVERY * (FIRST_RATE - rate.value)
        for request, drafts in (self._model.draft(wanted) if wanted else {}).items():
            rate = self._rates[request]
            rate.first, rate.drafts = len(request.token_ids), drafts
            draft.drafts[request] = drafts
