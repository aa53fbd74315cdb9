"""Plans every step: which rows decode, which prompts are prefilled, who is admitted and who is preempted.

A step decodes one token in every running row whose prefill is complete, and spends a budget of prompt tokens
(`TokenBudget`) on chunks of one prompt or several. `Fairness` orders the prompts, those of running and of waiting
requests alike.

Admission: a waiting request gets a row and pages for all its tokens when it is next. If rows or pages are short, one
running request after the other is preempted for it, but only in two cases, and otherwise it is refused:

- Its tenant holds no row. The victim belongs to the tenant with the most rows, which must hold several.
- Its tenant holds rows, but its client none. The victim belongs to a client of the same tenant that holds several.

Among those, the victim is the last admitted request of the client with the most rows. A request with a chunk in the
same step is never a victim.

Decode: if a row needs another page and none is available, the victim is chosen in the same order among all running
requests, and may be that row's own.

A preempted request keeps its output and returns to the front of its client's queue. Its full pages stay in the prefix
trie, so little has to be computed again.

Donation: a request blocked on a page that another request is computing donates its prefill budget to that request, up
to the end of the pages that both share. Only the tenant is charged for it, since several clients wait for that prefix.

The same calls in the same order give the same plans. No torch, no clock.
"""

from collections.abc import Mapping
from itertools import takewhile
from types import MappingProxyType

from engine.logits_params import ConstraintFailed, TokenConstraint, TokenLogprobs
from engine.scheduler.fairness import DECODE_WEIGHT, Fairness, PredictedDemand
from engine.scheduler.kv_cache_manager import KVCacheManager
from engine.scheduler.output import ScheduledStep, SchedulerTotals, TokenOutput
from engine.scheduler.page_table import PageTable
from engine.scheduler.request import FinishReason, Request, RequestStatus
from engine.scheduler.request_queue import RequestQueue
from engine.scheduler.row_updates import RowUpdates
from engine.scheduler.running_batch import RunningBatch
from engine.scheduler.step_draft import BudgetDonation, StepDraft
from engine.scheduler.step_plan import PrefillChunk, StepPlan
from engine.scheduler.token_budget import TokenBudget


class Scheduler:
    """All waiting and running requests, the rows and the pages."""

    def __init__(
        self,
        *,
        max_num_seqs: int,
        num_pages: int,
        max_prefill_tokens: int,
        max_context: int,
        page_size: int = 16,
        page_lookahead: int = 4,
        burst_prefill_tokens: int = 0,
    ) -> None:
        """`page_lookahead`: pages that a decoding row gets at a time while many are available.

        Raises ValueError if the pages cannot hold one request of `max_context` tokens.
        """
        if num_pages * page_size < max_context:
            raise ValueError(f"{num_pages} pages of {page_size} tokens cannot hold one context of {max_context}")
        self.cache = KVCacheManager(num_pages, page_size)
        self.totals = SchedulerTotals()
        self._token_budget = TokenBudget(max_prefill_tokens, burst_prefill_tokens, max_num_seqs)
        self._max_context, self._page_lookahead = max_context, page_lookahead
        self._row_updates = RowUpdates()
        self._batch, self._queue = RunningBatch(max_num_seqs), RequestQueue()
        self._fairness = Fairness(tie_margin=max_prefill_tokens - 1, max_lag=4 * max_prefill_tokens)

    @property
    def num_waiting(self) -> int:
        """Requests without a row."""
        return len(self._queue)

    @property
    def num_running(self) -> int:
        """Requests that hold a row."""
        return len(self._batch)

    def add_request(self, request: Request) -> None:
        """Queue a request. The caller bounds how many there are."""
        limit = request.num_prompt_tokens + (request.params.max_tokens or self._max_context)
        request.max_total_tokens = min(limit, self._max_context)
        self._fairness.add_request(request)
        self._queue.push(request, first=False)
        self.totals.prompt_tokens += request.num_prompt_tokens

    def cancel_request(self, request: Request) -> None:
        """End a request now. An id that a step in flight samples for it is dropped."""
        if request.status is not RequestStatus.FINISHED:
            self._finish(request, "cancelled")

    def schedule(self) -> ScheduledStep | None:
        """The next step, or None if nothing can run before ids are read or requests arrive."""
        while True:
            draft = StepDraft()
            for request in list(self._batch):
                if (
                    request.status is not RequestStatus.DECODE
                    or request.num_scheduled_tokens >= request.max_total_tokens
                ):
                    continue
                # Which token may come next depends on the one that is still in flight.
                if request.constraint is None or not request.num_in_flight_tokens:
                    self._schedule_decode(draft, request)
            self._schedule_prefill(draft)
            if draft.decode_requests or draft.chunks:
                return self._commit(draft)
            if not draft.preempted:
                return None

    def update_from_output(
        self, step: ScheduledStep, ids: dict[int, int], logprobs: Mapping[int, TokenLogprobs] = MappingProxyType({})
    ) -> list[TokenOutput]:
        """Apply the ids that a step sampled: row -> id. An id below 0: the row's logits are NaN or infinite."""
        outputs = []
        for row, request in step.sampled:
            if request.status is RequestStatus.FINISHED:
                continue
            token_id = ids[row]
            request.num_in_flight_tokens -= 1
            if token_id < 0:
                self._finish(request, "error")
                outputs.append(TokenOutput(request, (), "error"))
                continue
            try:
                is_stop = token_id in request.params.stop_token_ids and not request.params.ignore_eos
                is_complete = is_stop if request.constraint is None else _advance(request.constraint, token_id, is_stop)
            except ConstraintFailed as error:
                self._finish(request, "error")
                outputs.append(
                    TokenOutput(request, (), "error", error=f"The reply cannot follow its grammar: {error}.")
                )
                continue
            if is_stop:
                self._finish(request, "stop")
                outputs.append(TokenOutput(request, (), "stop"))
            else:
                request.token_ids.append(token_id)
                self.totals.output_tokens += 1
                if is_complete:
                    self._finish(request, "stop")
                elif len(request.token_ids) >= request.max_total_tokens:
                    self._finish(request, "length")
                outputs.append(TokenOutput(request, (token_id,), request.finish_reason, logprobs.get(row)))
        return outputs

    def _schedule_decode(self, draft: StepDraft, request: Request) -> None:
        """Let the row decode, with a page for the token that it computes; preempt requests until there is one."""
        page_size = self.cache.page_size
        while request.num_computed_tokens >= len(request.page_table.page_ids) * page_size:
            num_needed_later = -(-(request.max_total_tokens - 1) // page_size) - len(request.page_table.page_ids)
            has_room = self.cache.num_available_pages >= 2 * self._page_lookahead * len(self._batch)
            num_pages = max(1, min(num_needed_later, self._page_lookahead if has_room else 1))
            if self.cache.append_pages(request.page_table, num_pages):
                continue
            victim = self._batch.victim_for_page()
            self._preempt(draft, victim)
            if victim is request:
                return
        draft.decode_requests[request] = None

    def _schedule_prefill(self, draft: StepDraft) -> None:
        """Spend the budget of prompt tokens, one request at a time."""
        budget = remaining = self._token_budget.prefill_tokens(len(draft.decode_requests))
        next_donation: BudgetDonation | None = None  # from the request before, which was blocked
        while remaining > 0:
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
            request.num_computed_tokens, count = self.cache.next_uncomputed_span(
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
            self.cache.mark_computed(request.page_table, start, stop)
            request.num_computed_tokens = stop
            remaining -= count
            if len(request.token_ids) == request.num_prompt_tokens:
                request.num_prefilled_tokens += count
            self.totals.num_prefilled_tokens += count
            self._fairness.charge(request, count, shared=donation is not None)
            if stop == end:
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
        nodes, page_size = blocked.page_table.prefix_nodes, self.cache.page_size
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
                table = self.cache.allocate(request.tenant, request.token_ids, num_spare_pages)
            if table is not None:
                break
            victim = self._batch.victim_for_row(request, protected=draft.prefilling)
            if victim is None:
                return False
            self._preempt(draft, victim)
        if request.admission_index < 0:
            draft.new_requests.append(request)
        self._queue.remove(request)
        self._batch.add(request)
        request.page_table, request.num_computed_tokens, request.status = table, 0, RequestStatus.PREFILL
        self._row_updates.enter(request)
        return True

    def _preempt(self, draft: StepDraft, request: Request) -> None:
        draft.decode_requests.pop(request, None)
        draft.skipped.add(request)
        draft.preempted = True
        self._release_row(request)
        request.status = RequestStatus.WAITING
        self._queue.push(request, first=True)
        self.totals.preemptions += 1

    def _commit(self, draft: StepDraft) -> ScheduledStep:
        """Make the plan, and move its requests to the state that they have once the step has run."""
        sampled = []
        for request, chunk in draft.chunks:
            if chunk.is_last:
                if len(request.token_ids) == request.num_prompt_tokens:
                    self.totals.cached_tokens += request.num_prompt_tokens - request.num_prefilled_tokens
                request.status = RequestStatus.DECODE
                request.num_in_flight_tokens += 1
                sampled.append((request.row, request))
        for request in draft.decode_requests:
            request.num_computed_tokens += 1
            request.num_in_flight_tokens += 1
            sampled.append((request.row, request))
            self._fairness.charge(request, DECODE_WEIGHT)
        changes = self._row_updates.take(self._batch)
        plan = StepPlan(
            step=self.totals.steps,
            new_sequences=changes.new_sequences,
            page_grants=changes.page_grants,
            chunks=tuple(chunk for _, chunk in draft.chunks),
            decode_rows=tuple(request.row for request in draft.decode_requests),
            freed_rows=changes.freed_rows,
            token_masks=tuple((row, each.constraint.mask()) for row, each in sampled if each.constraint is not None),
        )
        self.totals.steps += 1
        return ScheduledStep(plan, tuple(sampled), tuple(draft.new_requests))

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if request.status is RequestStatus.WAITING:
            self._queue.remove(request)
        else:
            self._release_row(request, invalidate=reason == "error")
        request.status, request.finish_reason = RequestStatus.FINISHED, reason
        self.totals.finished[reason] += 1
        self._fairness.remove_request(request)
        if reason in ("stop", "length"):
            self._fairness.record_reply_length(len(request.token_ids) - request.num_prompt_tokens)

    def _release_row(self, request: Request, *, invalidate: bool = False) -> None:
        """Free the row and the pages. What they hold stays in the prefix trie, unless `invalidate`."""
        if invalidate:
            self.cache.invalidate(request.page_table)
        else:
            self.cache.free(request.page_table, request.token_ids[: request.num_computed_tokens])
        self._row_updates.leave(request.row)
        self._batch.remove(request)


def _advance(constraint: TokenConstraint, token_id: int, is_stop: bool) -> bool:
    """Whether the reply is complete once this token has come. Raises ConstraintFailed."""
    if is_stop:
        constraint.check()
        return True
    return constraint.accept(token_id)
