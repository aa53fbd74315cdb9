"""Chooses the drafts of a step: which rows verify how many tokens that their own text suggests.

A step that computes one token more takes `cost` times the time of a decode step longer. So a row gets as many drafts
as promise the most tokens for the time, by what came true lately for this request, and none if they promise hardly
more than decoding. Where several rows decode, a further token costs relatively more, as they share the step already.

A row's last id must have been read, and its logits must not be adjusted: penalties and grammars depend on the ids in
between. Drafts take their part of the budget of prompt tokens. They get pages that are available, and preempt nobody.

It knows requests and pages, and neither the model nor time.
"""

from typing import Final

from engine.scheduler.drafts.ngram_index import NgramIndex
from engine.scheduler.request import Request
from engine.scheduler.request_pool import RequestPool
from engine.scheduler.step_draft import StepDraft
from engine.scheduler.token_budget import TokenBudget

MIN_GAIN: Final = 1.05  # tokens for the time, as a multiple of what decoding gives


class Drafter:
    """The part of the scheduler that adds drafts to rows that decode."""

    def __init__(self, pool: RequestPool, token_budget: TokenBudget, max_draft_tokens: int, cost: float) -> None:
        """`max_draft_tokens`: of one row in one step; 0: there are no drafts."""
        self._cache, self._batch, self._token_budget = pool.cache, pool.batch, token_budget
        self.max_draft_tokens, self._cost = max_draft_tokens, cost

    def schedule(self, draft: StepDraft) -> None:
        """Choose drafts for the rows that decode in this step."""
        if not self.max_draft_tokens or not draft.decode_requests:
            return
        num_rows = len(draft.decode_requests)
        cost = self._cost * num_rows / (1 + self._cost * (num_rows - 1))
        remaining = self._token_budget.prefill_tokens(num_rows) // 2
        for request in draft.decode_requests:
            if request.num_in_flight_tokens or request.is_adjusted:
                continue
            if request.ngrams is None:
                request.ngrams = NgramIndex(request.token_ids, request.num_prompt_tokens)
            if not request.ngrams.update():
                continue
            limit = request.max_total_tokens - len(request.token_ids) - 1
            count = num_drafts(request.ngrams, cost, min(limit, remaining, self.max_draft_tokens))
            count = min(count, self._room(request, count))
            if count > 0:
                draft.drafts[request] = request.ngrams.continuation(count)
                remaining -= count

    def _room(self, request: Request, count: int) -> int:
        """How many drafts have pages, once those that are there to spare have been given for `count` of them."""
        page_size, table = self._cache.page_size, request.page_table
        num_more = -(-(request.num_computed_tokens + 1 + count) // page_size) - len(table.page_ids)
        if num_more > 0 and self._cache.num_available_pages >= num_more + len(self._batch):
            self._cache.append_pages(table, num_more)
        return len(table.page_ids) * page_size - request.num_computed_tokens - 1


def num_drafts(ngrams: NgramIndex, cost: float, limit: int) -> int:
    """The number of drafts, at most `limit`, that promises the most tokens for the time; 0: not enough."""
    likely, expected, best, chosen = 1.0, 1.0, MIN_GAIN, 0
    for count in range(1, limit + 1):
        likely *= ngrams.rate(count - 1)
        expected += likely
        gain = expected / (1 + cost * count)
        if gain > best:
            best, chosen = gain, count
        elif likely < cost:
            break
    return chosen
