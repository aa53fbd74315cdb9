"""Admits waiting requests and spends a step's budget of prompt tokens on chunks of prompts, in the order of fairness.

Admission: a waiting request gets a row and pages for all its tokens when it is next. If rows or pages are short, one
running request after the other is preempted for it, but only in two cases, and otherwise it is refused:

- Its tenant holds no row. The victim belongs to the tenant with the most rows, which must hold several.
- Its tenant holds rows, but its client none. The victim belongs to a client of the same tenant that holds several.

Among those, the victim is the last admitted request of the client with the most rows. A request with a chunk in the
same step is never a victim.

Donation: a request blocked on a page that another request is computing donates its prefill budget to that request, up
to the end of the pages that both share. Only the tenant is charged for it, since several clients wait for that prefix.

Knows the requests and the step that is being planned; knows nothing of decoding.
"""

from itertools import takewhile

from engine.scheduler.fairness import PredictedDemand
from engine.scheduler.kv_cache.page_table import PageTable
from engine.scheduler.request import Request, RequestStatus
from engine.scheduler.request_pool import RequestPool
from engine.scheduler.step_draft import BudgetDonation, StepDraft
from engine.scheduler.step_plan import MAX_FINISHED_PROMPTS, PrefillChunk
from engine.scheduler.token_budget import TokenBudget


class PrefillScheduler:
    """The part of the scheduler that adds prompts to a step."""

    def __init__(self, pool: RequestPool, token_budget: TokenBudget) -> None:
        self._pool, self._token_budget = pool, token_budget
        self._cache, self._fairness, self._totals = pool.cache, pool.fairness, pool.totals
        self._batch, self._queue = pool.batch, pool.queue

    def schedule(self, draft: StepDraft) -> None:
        """Spend the budget of prompt tokens, one request at a time."""
        budget = remaining = self._token_budget.prefill_tokens(len(draft.decode_requests)) - draft.num_draft_tokens
        next_donation: BudgetDonation | None = None  # from the request before, which was blocked
        num_finished = 0
        while remaining > 0 and num_finished < MAX_FINISHED_PROMPTS:
            donation, next_donation = next_donation, None
            request = donation.receiver if donation is not None else self._next_prefill(draft)
            if request is None:
                break
            if request.status is RequestStatus.WAITING and not self._try_admit(draft, request):
                draft.skipped.add(request)
                draft.out_of_room = True
                # With a free row it is pages that are short: no other request may take those that become available.
                draft.admission_closed = self._batch.has_free_row
                continue
            end = len(request.token_ids)
            max_tokens = min(remaining, donation.max_tokens) if donation is not None else remaining
            request.num_computed_tokens, count = self._cache.next_uncomputed_span(
                request.page_table, request.num_computed_tokens, end, max_tokens
            )
            draft.skipped.add(request)
            if count == 0:
                draft.blocked.add(request)
                next_donation = self._donate_budget(draft, request)
                continue
            draft.skipped -= draft.blocked
            draft.blocked.clear()
            start, stop = request.num_computed_tokens, request.num_computed_tokens + count
            chunk = PrefillChunk(request.row, start, tuple(request.token_ids[start:stop]), stop == end)
            draft.chunks.append((request, chunk))
            draft.prefilling.add(request)
            self._cache.mark_computed(request.page_table, start, stop)
            request.num_computed_tokens = stop
            remaining -= count
            if len(request.token_ids) == request.num_prompt_tokens:
                request.num_prefilled_tokens += count
            self._totals.num_prefilled_tokens += count
            self._fairness.charge(request, count, shared=donation is not None)
            if stop == end:
                num_finished += 1
                self._predicted_demand(draft).add(request)
        self._token_budget.record_step(len(draft.decode_requests), budget - remaining)

    def _next_prefill(self, draft: StepDraft) -> Request | None:
        """The next request by fairness among running ones in prefill and first ones of queues that may be admitted."""
        candidates: dict[str, dict[str, Request]] = {}
        for request in self._batch:
            if request.status is RequestStatus.PREFILL and request not in draft.skipped:
                candidates.setdefault(request.tenant, {}).setdefault(request.client, request)
        for tenant in [] if draft.admission_closed else self._batch.admissible_tenants(self._queue.tenants):
            for request in self._queue.next_requests(tenant):
                is_refused = draft.out_of_room and self._batch.rows_of_client(tenant, request.client)
                if request not in draft.skipped and not request.num_in_flight_tokens and not is_refused:
                    candidates.setdefault(tenant, {}).setdefault(request.client, request)
        if not candidates:
            return None
        return self._fairness.next_request(candidates, self._batch, self._predicted_demand(draft))

    def _predicted_demand(self, draft: StepDraft) -> PredictedDemand:
        if draft.demand is None:
            draft.demand = self._fairness.predict_demand(self._batch)
        return draft.demand

    def _donate_budget(self, draft: StepDraft, blocked: Request) -> BudgetDonation | None:
        """A donation to the owner of the page that `blocked` waits for, if the owner can still prefill in this step."""
        nodes, page_size = blocked.page_table.prefix_nodes, self._cache.page_size
        owner = nodes[blocked.num_computed_tokens // page_size].owner
        for request in self._batch:
            if request.page_table is owner and request not in draft.skipped:
                pairs = zip(nodes, request.page_table.prefix_nodes, strict=False)
                num_shared = sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], pairs))
                return BudgetDonation(request, num_shared * page_size - request.num_computed_tokens)
        return None

    def _try_admit(self, draft: StepDraft, request: Request) -> bool:
        """Give a waiting request a row and pages, preempting others if its tenant or client may do that."""
        while True:
            table: PageTable | None = None
            if self._batch.has_free_row:
                # Each decoding row may need another page soon.
                num_spare_pages = sum(other.status is RequestStatus.DECODE for other in self._batch)
                table = self._cache.allocate(request.tenant, request.token_ids, num_spare_pages)
            if table is not None:
                break
            victim = self._batch.victim_for_row(request, protected=draft.prefilling)
            if victim is None:
                return False
            draft.drop(victim)
            self._pool.preempt(victim)
        if request.admission_index < 0:
            draft.new_requests.append(request)
        self._pool.admit(request, table)
        return True
