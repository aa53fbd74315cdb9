"""Plans every step: which rows decode and, with prefill_scheduler.py, which prompts are prefilled and admitted.

A step decodes one token in every running row whose prefill is complete, and spends a budget of prompt tokens
(`TokenBudget`) on chunks of one prompt or several. `Fairness` orders the prompts, those of running and of waiting
requests alike. A row may also verify drafts of its next tokens (`Drafter`); the tenant is charged for those accepted.

Decode: if a row needs another page and none is available, a running request is preempted: the last admitted one of the
client with the most rows, of the tenant with the most rows. It may be that row's own.

A preempted request keeps its output and returns to the front of its client's queue. Its full pages stay in the prefix
trie, so little has to be computed again.

The same calls in the same order give the same plans. No torch, no clock.
"""

from collections.abc import Mapping
from types import MappingProxyType

from engine.logits_params import ConstraintFailed, TokenConstraint, TokenLogprobs
from engine.scheduler.copy_budget import CopyBudget
from engine.scheduler.drafts.drafter import Drafter
from engine.scheduler.drafts.limits import NO_DRAFTS, DraftLimits
from engine.scheduler.drafts.model_drafter import DraftModel, ModelDrafter
from engine.scheduler.drafts.verification import VerifiedRun
from engine.scheduler.fairness import DECODE_WEIGHT, Fairness
from engine.scheduler.kv_cache.kv_cache_manager import MIN_RESTORED_PAGES, KVCacheManager
from engine.scheduler.output import ScheduledStep, TokenOutput
from engine.scheduler.prefill_scheduler import PrefillScheduler
from engine.scheduler.request import Request, RequestStatus
from engine.scheduler.request_pool import RequestPool
from engine.scheduler.step_draft import StepDraft
from engine.scheduler.step_plan import StepPlan, Verification
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
        counts_rows: bool = False,
        max_host_slots: int = 0,
        page_bytes: int = 1,
        min_restored_pages: int = MIN_RESTORED_PAGES,
        draft_limits: DraftLimits = NO_DRAFTS,
        draft_model: DraftModel | None = None,
        draft_model_cost: float = 1.0,
    ) -> None:
        """`page_lookahead`: pages that a decoding row gets at a time while many are available. The token limits and
        `counts_rows`: see TokenBudget.

        `max_host_slots`: slots of the host tier, which exist once `cache.host.grow` has said so; `page_bytes`: of one
        rank. `draft_model`: makes the drafts, instead of the requests' own text; its cost: see ModelDrafter.

        Raises ValueError if the pages cannot hold one request of `max_context` tokens.
        """
        if num_pages * page_size < max_context:
            raise ValueError(f"{num_pages} pages of {page_size} tokens cannot hold one context of {max_context}")
        self.cache = KVCacheManager(
            num_pages, page_size, max_host_slots=max_host_slots, min_restored_pages=min_restored_pages
        )
        self._copy_budget = CopyBudget(page_bytes)
        self._page_lookahead = page_lookahead
        self._fairness = Fairness(tie_margin=max_prefill_tokens - 1, max_lag=4 * max_prefill_tokens)
        self._pool = RequestPool(self.cache, self._fairness, max_num_seqs=max_num_seqs, max_context=max_context)
        self.totals, self._batch = self._pool.totals, self._pool.batch
        token_budget = TokenBudget(max_prefill_tokens, burst_prefill_tokens, max_num_seqs, counts_rows=counts_rows)
        self.drafter = (
            Drafter(self._pool, token_budget, draft_limits)
            if draft_model is None
            else ModelDrafter(self._pool, token_budget, draft_limits, draft_model, draft_model_cost)
        )
        self._prefill = PrefillScheduler(self._pool, token_budget)

    @property
    def num_waiting(self) -> int:
        """Requests without a row."""
        return len(self._pool.queue)

    @property
    def num_running(self) -> int:
        """Requests that hold a row."""
        return len(self._batch)

    def add_request(self, request: Request) -> None:
        """Queue a request. The caller bounds how many there are."""
        self._pool.add(request)

    def cancel_request(self, request: Request) -> None:
        """End a request now. An id that a step in flight samples for it is dropped."""
        if request.status is not RequestStatus.FINISHED:
            self._pool.finish(request, "cancelled")

    def cancel_running(self) -> None:
        """End all requests that hold a row; what they have computed stays in the cache."""
        for request in list(self._batch):
            self.cancel_request(request)

    def erase(self, tenant: str) -> int:
        """Drop and overwrite the pages of a tenant in both tiers; what its requests hold, when they end.

        Returns the number of pages that no later prompt will find.
        """
        return self.cache.erase(tenant, self._pool.mark_erased(tenant))

    def schedule(self) -> ScheduledStep | None:
        """The next step, or None if nothing can run before ids are read or requests arrive.

        A step without tokens makes copies: those that requests wait for, those that erase, and when nothing else is to
        be done, those of idle pages.
        """
        self.cache.begin_plan()
        self.drafter.release()
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
            if self.drafter.limits.beside_prompts:
                self.drafter.schedule(draft)
            self._prefill.schedule(draft)
            if not self.drafter.limits.beside_prompts and not draft.chunks:
                self.drafter.schedule(draft)
            if draft.decode_requests or draft.chunks or self.cache.has_waiting_copies:
                return self._commit(draft)
            if not draft.preempted:
                return self._commit(draft) if self.cache.host.has_work else None

    def update_from_output(
        self,
        step: ScheduledStep,
        ids: Mapping[int, int],
        logprobs: Mapping[int, TokenLogprobs] = MappingProxyType({}),
        verified: Mapping[int, VerifiedRun] = MappingProxyType({}),
    ) -> list[TokenOutput]:
        """Apply the ids that a step sampled: row -> id. An id below 0: the row's logits are NaN or infinite.

        `verified`: the ids of rows that verified drafts, which count instead.
        """
        outputs = []
        for row, request in step.sampled:
            if request.status is RequestStatus.FINISHED:
                continue
            drafts = request.in_flight_drafts.pop(0)
            request.num_in_flight_tokens -= 1 + len(drafts)
            if not drafts:
                scores = (logprobs[row],) if row in logprobs else ()
                outputs.append(self._take_tokens(request, (ids[row],), scores))
            else:
                run = verified[row]
                request.num_computed_tokens -= len(drafts) - run.num_accepted
                self.totals.accepted_tokens += run.num_accepted
                outputs.append(self._take_tokens(request, run.token_ids, run.logprobs))
        return outputs

    def _take_tokens(
        self, request: Request, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...]
    ) -> TokenOutput:
        """Append sampled ids to a request until one ends it. Those after that are dropped."""
        error: str | None = None
        first = len(request.token_ids)
        for number, token_id in enumerate(token_ids):
            if number:
                self._fairness.charge(request, DECODE_WEIGHT)
            if token_id < 0:
                self._pool.finish(request, "error")
                break
            try:
                is_stop = token_id in request.params.stop_token_ids and not request.params.ignore_eos
                is_complete = is_stop if request.constraint is None else _advance(request.constraint, token_id, is_stop)
            except ConstraintFailed as failure:
                self._pool.finish(request, "error")
                error = f"The reply cannot follow its grammar: {failure}."
                break
            if is_stop:
                self._pool.finish(request, "stop")
                break
            request.token_ids.append(token_id)
            self.totals.output_tokens += 1
            if is_complete:
                self._pool.finish(request, "stop")
            elif len(request.token_ids) >= request.max_total_tokens:
                self._pool.finish(request, "length")
            if request.finish_reason is not None:
                break
        taken = tuple(request.token_ids[first:])
        return TokenOutput(request, taken, request.finish_reason, logprobs[: len(taken)], error)

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
            draft.drop(victim)
            self._pool.preempt(victim)
            if victim is request:
                return
        draft.decode_requests[request] = None

    def _commit(self, draft: StepDraft) -> ScheduledStep:
        """Make the plan, and move its requests to the state that they have once the step has run."""
        sampled = []
        verifications = []
        decode_rows = []
        for request, chunk in draft.chunks:
            if chunk.is_last:
                if len(request.token_ids) == request.num_prompt_tokens:
                    self.totals.cached_tokens += request.num_prompt_tokens - request.num_prefilled_tokens
                request.status = RequestStatus.DECODE
                request.num_in_flight_tokens += 1
                request.in_flight_drafts.append(())
                sampled.append((request.row, request))
        for request, drafts in draft.drafts.items():
            verifications.append(Verification(request.row, drafts))
            self.totals.drafted_tokens += len(drafts)
            sampled.append((request.row, request))
        for request in draft.decode_requests:
            drafts = draft.drafts.get(request, ())
            if not drafts:
                decode_rows.append(request.row)
                sampled.append((request.row, request))
            request.num_computed_tokens += 1 + len(drafts)  # those that are refused are taken off once they are known
            request.num_in_flight_tokens += 1 + len(drafts)
            request.in_flight_drafts.append(drafts)
            self._fairness.charge(request, DECODE_WEIGHT)  # those that are accepted are charged once they are known
        changes = self._pool.row_updates.take(self._batch)
        num_prefilled_pages = sum(len(chunk.token_ids) for _, chunk in draft.chunks) // self.cache.page_size
        copies = self.cache.plan_copies(
            self._copy_budget.restored_pages(len(draft.decode_requests)),
            self._copy_budget.saved_pages(num_prefilled_pages),
        )
        plan = StepPlan(
            step=self.totals.steps,
            new_sequences=changes.new_sequences,
            page_grants=changes.page_grants,
            chunks=tuple(chunk for _, chunk in draft.chunks),
            verifications=tuple(verifications),
            decode_rows=tuple(decode_rows),
            freed_rows=changes.freed_rows,
            copies=copies,
            token_masks=tuple((row, each.constraint.mask()) for row, each in sampled if each.constraint is not None),
        )
        self.totals.steps += 1
        return ScheduledStep(plan, tuple(sampled), tuple(draft.new_requests))


def _advance(constraint: TokenConstraint, token_id: int, is_stop: bool) -> bool:
    """Whether the reply is complete once this token has come. Raises ConstraintFailed."""
    if is_stop:
        constraint.check()
        return True
    return constraint.accept(token_id)
