"""Chooses the drafts of a step: which rows verify how many tokens that their own text suggests.

A step that computes one token more takes `DraftLimits.cost` times the time of a decode step longer. So a row gets as
many drafts as promise the most tokens for the time, by what came true lately for this request, and none if they promise
hardly more than decoding. Where several rows decode, a further token costs relatively more, as they share the step
already.

Where steps overlap, a row's last ids have not been read. They are taken for what the source expects; if they turn out
to be others, the drafts after them are refused. A row's logits must not be adjusted: penalties and grammars depend on
the ids in between. Drafts take their part of the budget of tokens. They get pages that are available, and preempt
nobody.

It knows requests and pages, and neither the model nor time.
"""

from collections.abc import Callable, Sequence
from typing import Final

from engine.scheduler.drafts.limits import DraftLimits
from engine.scheduler.drafts.ngram_index import NgramIndex
from engine.scheduler.drafts.source import DraftRates, DraftSource
from engine.scheduler.drafts.verification import num_accepted
from engine.scheduler.request import Request
from engine.scheduler.request_pool import RequestPool
from engine.scheduler.step_draft import StepDraft
from engine.scheduler.token_budget import TokenBudget

MIN_GAIN: Final = 1.05  # tokens for the time, as a multiple of what decoding gives
MAX_READ: Final = 1024  # tokens that all sources together read before a step; this delays it by about a millisecond


def ngrams_of(request: Request) -> DraftSource:
    """The source that knows the request's own text."""
    return NgramIndex(request.token_ids, request.num_prompt_tokens)


class Drafter:
    """The part of the scheduler that adds drafts to rows that decode. `limits` and `open_source` may be changed."""

    def __init__(self, pool: RequestPool, token_budget: TokenBudget, limits: DraftLimits) -> None:
        self._cache, self._batch, self._token_budget = pool.cache, pool.batch, token_budget
        self.limits = limits
        self.open_source: Callable[[Request], DraftSource] = ngrams_of

    def schedule(self, draft: StepDraft) -> None:
        """Choose drafts for the rows that decode in this step."""
        limits, num_rows = self.limits, len(draft.decode_requests)
        if not limits.max_drafts or not num_rows:
            return
        cost, first_cost = self._costs(num_rows)
        remaining, may_read = self._max_drafts(draft), max(MAX_READ, num_rows)  # one for each row
        for request in draft.decode_requests:
            if remaining <= 0:
                break
            if request.is_adjusted:
                continue
            source = request.draft_source
            if source is None:
                source = request.draft_source = self.open_source(request)
            num_read = min(may_read, source.num_unread)
            may_read -= num_read
            if not source.update(num_read):
                continue
            ahead = num_expected(source, request.in_flight_drafts)
            limit = min(request.max_total_tokens - request.num_scheduled_tokens - 1, remaining, limits.max_drafts)
            count = num_drafts(source, cost, limit, ahead=ahead, first_cost=first_cost)
            count = min(count, self._room(request, count))
            if count > 0:
                draft.drafts[request] = source.continuation(ahead + count)[ahead:]
                remaining -= count

    def release(self) -> None:
        """Forget requests that hold no row any more. Called before each plan."""

    def prepare(self) -> bool:
        """As `Runner.prepare`."""
        return False

    def close(self) -> None:
        """Free memory that is the drafter's own."""

    def _costs(self, num_rows: int) -> tuple[float, float]:
        """Of one more token, and of a step with drafts besides, in steps of this many rows."""
        limits = self.limits
        cost = limits.cost * num_rows / (1 + limits.cost * (num_rows - 1))
        return cost, limits.first_cost if num_rows == 1 else 0.0

    def _max_drafts(self, draft: StepDraft) -> int:
        """Of all rows in this step."""
        num_rows = len(draft.decode_requests)
        if self.limits.max_tokens is None:
            return self._token_budget.prefill_tokens(num_rows) // 2
        return self.limits.max_tokens - num_rows

    def _room(self, request: Request, count: int) -> int:
        """How many drafts have pages, once those that are there to spare have been given for `count` of them."""
        page_size, table = self._cache.page_size, request.page_table
        num_more = -(-(request.num_computed_tokens + 1 + count) // page_size) - len(table.page_ids)
        if num_more > 0 and self._cache.num_available_pages >= num_more + len(self._batch):
            self._cache.append_pages(table, num_more)
        return len(table.page_ids) * page_size - request.num_computed_tokens - 1


def num_expected(source: DraftSource, in_flight_drafts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens the steps in flight will give, if what the source expects now is right."""
    ahead = 0
    for drafts in in_flight_drafts:
        ahead += num_accepted(drafts, source.continuation(ahead + len(drafts))[ahead:]) + 1
    return ahead


def num_drafts(rates: DraftRates, cost: float, limit: int, *, ahead: int = 0, first_cost: float = 0.0) -> int:
    """The number of drafts, at most `limit`, that promises the most tokens for the time; 0: not enough.

    They follow `ahead` tokens of steps in flight. `first_cost`: of a step with drafts, besides that of its tokens.
    """
    likely, expected, best, chosen = 1.0, 1.0, MIN_GAIN, 0
    for index in range(ahead):
        likely *= rates.rate(index)
    for count in range(1, limit + 1):
        likely *= rates.rate(ahead + count - 1)
        expected += likely
        gain = expected / (1 + first_cost + cost * count)
        if gain > best:
            best, chosen = gain, count
        elif likely < cost:
            break
    return chosen
