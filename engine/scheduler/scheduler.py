"""Who runs, and what each step does: queues, fairness, chunked prefill, admission, preemption. No torch, no clock.

A step decodes every row that can, and adds up to `chunk` prompt tokens, of one request or several. The order among
prompts is fair at two levels, tenants first and then the clients of a tenant. A request that finds no row or no pages
waits, unless its tenant (or, within the tenant, its client) holds no row at all while another holds several: then the
latest request of whoever holds most is preempted. A preempted request keeps its output and returns to the front of its
client's queue; its full pages stay in the trie, so that little has to be computed again. A request whose next page
another one computes lends it its turn.

The same calls in the same order give the same plans.
"""

from dataclasses import dataclass, field
from itertools import takewhile

from engine.scheduler.fairness import DECODE_WEIGHT, Fairness, PredictedDemand
from engine.scheduler.kv_cache_manager import KVCacheManager, PageTable
from engine.scheduler.output import ScheduledStep, SchedulerTotals, TokenOutput
from engine.scheduler.request import FinishReason, Request, RequestStatus
from engine.scheduler.request_queue import RequestQueue
from engine.scheduler.running_batch import RunningBatch
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan, float32
from engine.scheduler.token_budget import TokenBudget


@dataclass(frozen=True, slots=True)
class BudgetDonation:
    """A turn for whoever computes what another waits for, for as many tokens as both have in common."""

    receiver: Request
    max_tokens: int


@dataclass(slots=True)
class _StepDraft:
    """The step being planned."""

    decode_requests: dict[Request, None] = field(default_factory=dict)
    chunks: list[tuple[Request, PrefillChunk]] = field(default_factory=list)
    new_requests: list[Request] = field(default_factory=list)
    prefilling: set[Request] = field(default_factory=set)  # has a chunk in this step, so it must stay in its row
    skipped: set[Request] = field(default_factory=set)  # cannot go on in this step
    stalled: set[Request] = field(default_factory=set)  # waits for a page that another request may compute in it
    demand: PredictedDemand | None = (
        None  # what replies that run or begin in this step will still take, once anybody asks
    )
    preempted: bool = False
    out_of_room: bool = False  # someone found no room, so only those may still enter who hold no row at all
    admission_closed: bool = False  # nobody may enter


class Scheduler:
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
        if num_pages * page_size < max_context:
            raise ValueError(f"{num_pages} pages of {page_size} tokens cannot hold one context of {max_context}")
        self.cache = KVCacheManager(num_pages, page_size)
        self.totals = SchedulerTotals()
        self._token_budget = TokenBudget(max_prefill_tokens, burst_prefill_tokens, max_num_seqs)
        self._max_context, self._lookahead = max_context, page_lookahead
        self._freed_rows: list[int] = []  # rows that the runners have not been told about, and setups
        self._new_sequences: list[NewSequence] = []
        self._batch, self._queue = RunningBatch(max_num_seqs), RequestQueue()
        self._fairness = Fairness(tie_margin=max_prefill_tokens - 1, max_lag=4 * max_prefill_tokens)

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def num_running(self) -> int:
        return len(self._batch)

    def add_request(self, request: Request) -> None:
        """Queue a request. The caller bounds how many there are."""
        most = request.num_prompt_tokens + (request.params.max_tokens or self._max_context)
        request.max_total_tokens = min(most, self._max_context)
        self._fairness.add_request(request)
        self._queue.push(request, first=False)
        self.totals.prompt_tokens += request.num_prompt_tokens

    def cancel_request(self, request: Request) -> None:
        """End a request now; an id that a running step samples for it is dropped."""
        if request.status is not RequestStatus.FINISHED:
            self._finish(request, "cancelled")

    def schedule(self) -> ScheduledStep | None:
        """The next step, or None when nothing can be done before ids come back or requests arrive."""
        while True:
            draft = _StepDraft()
            for request in list(self._batch):
                if request.status is RequestStatus.DECODE and request.num_scheduled_tokens < request.max_total_tokens:
                    self._schedule_decode(draft, request)
            self._schedule_prefill(draft)
            if draft.decode_requests or draft.chunks:
                return self._commit(draft)
            if not draft.preempted:
                return None

    def update_from_output(self, step: ScheduledStep, ids: dict[int, int]) -> list[TokenOutput]:
        """The ids that a step sampled, row by row. An id below 0 means numbers that went wrong."""
        outputs = []
        for row, request in step.sampled:
            if request.status is RequestStatus.FINISHED:
                continue
            token = ids[row]
            request.num_in_flight_tokens -= 1
            if token < 0:
                self._finish(request, "error")
                outputs.append(TokenOutput(request, (), "error"))
            elif token in request.params.stop_token_ids and not request.params.ignore_eos:
                self._finish(request, "stop")
                outputs.append(TokenOutput(request, (), "stop"))
            else:
                request.token_ids.append(token)
                self.totals.output_tokens += 1
                if len(request.token_ids) >= request.max_total_tokens:
                    self._finish(request, "length")
                outputs.append(TokenOutput(request, (token,), request.finish_reason))
        return outputs

    def _schedule_decode(self, draft: _StepDraft, request: Request) -> None:
        """Let the row decode, with a page for the token that it feeds; under pressure someone has to go."""
        page = self.cache.page_size
        while request.num_computed_tokens >= len(request.page_table.page_ids) * page:
            ahead = -(-(request.max_total_tokens - 1) // page) - len(request.page_table.page_ids)
            roomy = self.cache.num_available_pages >= 2 * self._lookahead * len(self._batch)
            if self.cache.append_pages(request.page_table, max(1, min(ahead, self._lookahead if roomy else 1))):
                continue
            victim = self._batch.victim_for_page(draft.prefilling)
            if victim is None or victim is request:
                self._preempt(draft, request)
                return
            self._preempt(draft, victim)
        if request.status is RequestStatus.DECODE:
            draft.decode_requests[request] = None

    def _schedule_prefill(self, draft: _StepDraft) -> None:
        granted = budget = self._token_budget.prefill_tokens(len(draft.decode_requests))
        offer: BudgetDonation | None = None  # by the last request, which could not use its turn
        while budget > 0:
            loan, offer = offer, None
            request = loan.receiver if loan is not None else self._next_prefill(draft)
            if request is None:
                break
            if request.status is RequestStatus.WAITING and not self._try_admit(draft, request):
                draft.skipped.add(request)
                draft.out_of_room = True
                draft.admission_closed = (
                    self._batch.has_free_row
                )  # it is pages that are short: let them gather for this one
                continue
            end = len(request.token_ids)
            most = min(budget, loan.max_tokens) if loan is not None else budget
            request.num_computed_tokens, count = self.cache.next_uncomputed_span(
                request.page_table, request.num_computed_tokens, end, most
            )
            draft.skipped.add(request)
            if count == 0:
                draft.stalled.add(request)
                offer = self._donate_budget(draft, request)
                continue
            draft.skipped -= draft.stalled
            draft.stalled.clear()
            start, stop = request.num_computed_tokens, request.num_computed_tokens + count
            draft.chunks.append(
                (request, PrefillChunk(request.row, start, tuple(request.token_ids[start:stop]), stop == end))
            )
            draft.prefilling.add(request)
            self.cache.mark_computed(request.page_table, start, stop)
            request.num_computed_tokens = stop
            budget -= count
            if len(request.token_ids) == request.num_prompt_tokens:
                request.num_prefilled_tokens += count
            self.totals.num_prefilled_tokens += count
            self._fairness.charge(request, count, shared=loan is not None)
            if stop == end:
                self._demand(draft).add(request)
        self._token_budget.record_step(len(draft.decode_requests), granted - budget)

    def _next_prefill(self, draft: _StepDraft) -> Request | None:
        """The prompt that is next by fairness: one that runs already or the head of a queue that may still enter."""
        heads: dict[str, dict[str, Request]] = {}
        for request in self._batch:
            if request.status is RequestStatus.PREFILL and request not in draft.skipped:
                heads.setdefault(request.tenant, {}).setdefault(request.client, request)
        for tenant in [] if draft.admission_closed else self._batch.admissible_tenants(self._queue.tenants):
            for head in self._queue.next_requests(tenant):
                shut = draft.out_of_room and self._batch.rows_of_client(tenant, head.client)
                if head not in draft.skipped and not head.num_in_flight_tokens and not shut:
                    heads.setdefault(tenant, {}).setdefault(head.client, head)
        if not heads:
            return None
        return self._fairness.next_request(heads, self._batch, self._demand(draft))

    def _demand(self, draft: _StepDraft) -> PredictedDemand:
        if draft.demand is None:
            draft.demand = self._fairness.predict_demand(self._batch)
        return draft.demand

    def _donate_budget(self, draft: _StepDraft, waiting: Request) -> BudgetDonation | None:
        """The turn of a request whose next page another one computes, if that one can still go on in this step."""
        nodes, page = waiting.page_table.prefix_nodes, self.cache.page_size
        owner = nodes[waiting.num_computed_tokens // page].owner
        for request in self._batch:
            if request.page_table is owner and request not in draft.skipped:
                pairs = zip(nodes, request.page_table.prefix_nodes, strict=False)
                alike = sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], pairs))
                return BudgetDonation(request, alike * page - request.num_computed_tokens)
        return None

    def _try_admit(self, draft: _StepDraft, request: Request) -> bool:
        """Give a waiting request a row and pages, if need be by preempting one of those who hold several."""
        while True:
            hold: PageTable | None = None
            if self._batch.has_free_row:
                spare = sum(other.status is RequestStatus.DECODE for other in self._batch)
                hold = self.cache.allocate(request.tenant, request.token_ids, spare)
            if hold is not None:
                break
            victim = self._batch.victim_for_row(request, draft.prefilling)
            if victim is None:
                return False
            self._preempt(draft, victim)
        if request.admission_index < 0:
            draft.new_requests.append(request)
        self._queue.remove(request)
        self._batch.add(request)
        request.page_table, request.num_computed_tokens, request.num_sent_pages, request.status = (
            hold,
            0,
            0,
            RequestStatus.PREFILL,
        )
        params = request.params
        self._new_sequences.append(
            NewSequence(request.row, float32(params.temperature), float32(params.top_p), request.seed)
        )
        return True

    def _preempt(self, draft: _StepDraft, request: Request) -> None:
        draft.decode_requests.pop(request, None)
        draft.skipped.add(request)
        draft.preempted = True
        self._release_row(request)
        request.status = RequestStatus.WAITING
        self._queue.push(request, first=True)
        self.totals.preemptions += 1

    def _commit(self, draft: _StepDraft) -> ScheduledStep:
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
        grants = []
        for request in self._batch:
            pages = request.page_table.page_ids
            grants += [(request.row, index, pages[index]) for index in range(request.num_sent_pages, len(pages))]
            request.num_sent_pages = len(pages)
        plan = StepPlan(
            step=self.totals.steps,
            new_sequences=tuple(self._new_sequences),
            page_grants=tuple(grants),
            chunks=tuple(chunk for _, chunk in draft.chunks),
            decode_rows=tuple(request.row for request in draft.decode_requests),
            freed_rows=tuple(self._freed_rows),
        )
        self.totals.steps += 1
        self._freed_rows, self._new_sequences = [], []
        return ScheduledStep(plan, tuple(sampled), tuple(draft.new_requests))

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if request.status is RequestStatus.WAITING:
            self._queue.remove(request)
        else:
            self._release_row(request, poisoned=reason == "error")
        request.status, request.finish_reason = RequestStatus.FINISHED, reason
        self.totals.finished[reason] += 1
        self._fairness.remove_request(request)
        if reason in ("stop", "length"):
            self._fairness.record_reply_length(len(request.token_ids) - request.num_prompt_tokens)

    def _release_row(self, request: Request, *, poisoned: bool = False) -> None:
        """Free the row and the pages. What is known and fed stays in the trie."""
        if poisoned:
            self.cache.invalidate(request.page_table)
        else:
            self.cache.free(request.page_table, request.token_ids[: request.num_computed_tokens])
        self._new_sequences = [setup for setup in self._new_sequences if setup.row != request.row]
        self._freed_rows.append(request.row)
        self._batch.remove(request)
