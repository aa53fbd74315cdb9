"""All waiting and running requests, and what each holds: its place in a queue, or a row and pages.

Moves a request from one state to the next: queued, admitted, preempted, finished. Knows rows, pages, queues and counts;
decides nothing and knows no steps.
"""

from engine.scheduler.fairness import Fairness
from engine.scheduler.kv_cache.kv_cache_manager import KVCacheManager
from engine.scheduler.kv_cache.page_table import PageTable
from engine.scheduler.output import SchedulerTotals
from engine.scheduler.request import FinishReason, Request, RequestStatus
from engine.scheduler.request_queue import RequestQueue
from engine.scheduler.row_updates import RowUpdates
from engine.scheduler.running_batch import RunningBatch


class RequestPool:
    """The requests of one scheduler. Its parts are public: the scheduler's rules read them."""

    def __init__(self, cache: KVCacheManager, fairness: Fairness, *, max_num_seqs: int, max_context: int) -> None:
        self.cache, self.fairness = cache, fairness
        self.totals = SchedulerTotals()
        self.row_updates = RowUpdates()
        self.batch, self.queue = RunningBatch(max_num_seqs), RequestQueue()
        self._max_context = max_context

    def add(self, request: Request) -> None:
        """Queue a new request."""
        limit = request.num_prompt_tokens + (request.params.max_tokens or self._max_context)
        request.max_total_tokens = min(limit, self._max_context)
        self.fairness.add_request(request)
        self.queue.push(request, first=False)
        self.totals.prompt_tokens += request.num_prompt_tokens

    def admit(self, request: Request, table: PageTable) -> None:
        """Give a waiting request a free row and the pages of `table`. There must be a row."""
        self.queue.remove(request)
        self.batch.add(request)
        request.page_table, request.num_computed_tokens, request.status = table, 0, RequestStatus.PREFILL
        table.is_erased = request.is_erased
        self.row_updates.enter(request)

    def mark_erased(self, tenant: str) -> list[PageTable]:
        """Nothing of the tenant's unfinished requests is kept when they end; returns the tables of those that run."""
        for request in self.queue.requests(tenant):
            request.is_erased = True
        running = [request for request in self.batch if request.tenant == tenant]
        for request in running:
            request.is_erased = True
        return [request.page_table for request in running]

    def preempt(self, request: Request) -> None:
        """Free the row and the pages of a running request, which returns to the front of its client's queue."""
        self._release_row(request)
        request.status = RequestStatus.WAITING
        self.queue.push(request, first=True)
        self.totals.preemptions += 1

    def finish(self, request: Request, reason: FinishReason) -> None:
        """End a waiting or running request."""
        if request.status is RequestStatus.WAITING:
            self.queue.remove(request)
        else:
            self._release_row(request, invalidate=reason == "error")
        request.status, request.finish_reason = RequestStatus.FINISHED, reason
        self.totals.finished[reason] += 1
        self.fairness.remove_request(request)
        if reason in ("stop", "length"):
            self.fairness.record_reply_length(len(request.token_ids) - request.num_prompt_tokens)

    def _release_row(self, request: Request, *, invalidate: bool = False) -> None:
        """Free the row and the pages. What they hold stays in the prefix trie, unless `invalidate`."""
        if invalidate:
            self.cache.invalidate(request.page_table)
        else:
            self.cache.free(request.page_table, request.token_ids[: request.num_computed_tokens])
        self.row_updates.leave(request.row)
        self.batch.remove(request)
