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

from engine.scheduler.fairness import DECODE_WEIGHT, Ahead, Fairness
from engine.scheduler.kv_cache_manager import Hold, KVCache
from engine.scheduler.output import Output, Step, Totals
from engine.scheduler.request import FinishReason, Request, State
from engine.scheduler.request_queue import Queues
from engine.scheduler.running_batch import Occupancy
from engine.scheduler.step_plan import Chunk, Plan, RowSetup, float32
from engine.scheduler.token_budget import Pace


@dataclass(frozen=True, slots=True)
class _Loan:
    """A turn for whoever computes what another waits for, for as many tokens as both have in common."""

    to: Request
    tokens: int


@dataclass(slots=True)
class _Draft:
    """The step being planned."""

    decode: dict[Request, None] = field(default_factory=dict)
    chunks: list[tuple[Request, Chunk]] = field(default_factory=list)
    entered: list[Request] = field(default_factory=list)
    busy: set[Request] = field(default_factory=set)  # has a chunk in this step, so it must stay in its row
    skip: set[Request] = field(default_factory=set)  # cannot go on in this step
    stalled: set[Request] = field(default_factory=set)  # waits for a page that another request may compute in it
    ahead: Ahead | None = None  # what replies that run or begin in this step will still take, once anybody asks
    preempted: bool = False
    full: bool = False  # someone found no room, so only those may still enter who hold no row at all
    closed: bool = False  # nobody may enter


class Scheduler:
    def __init__(
        self,
        *,
        rows: int,
        pages: int,
        chunk: int,
        max_context: int,
        page: int = 16,
        lookahead: int = 4,
        burst: int = 0,
    ) -> None:
        if pages * page < max_context:
            raise ValueError(f"{pages} pages of {page} tokens cannot hold one context of {max_context}")
        self.cache = KVCache(pages, page)
        self.totals = Totals()
        self._pace = Pace(chunk, burst, rows)
        self._max_context, self._lookahead = max_context, lookahead
        self._freed: list[int] = []  # rows that the runners have not been told about, and setups
        self._setups: list[RowSetup] = []
        self._rows, self._queues = Occupancy(rows), Queues()
        self._fairness = Fairness(slack=chunk - 1, lag=4 * chunk)

    @property
    def waiting(self) -> int:
        return len(self._queues)

    @property
    def running(self) -> int:
        return len(self._rows)

    def add(self, request: Request) -> None:
        """Queue a request. The caller bounds how many there are."""
        most = request.prompt + (request.params.max_tokens or self._max_context)
        request.limit = min(most, self._max_context)
        self._fairness.enter(request)
        self._queues.put(request, first=False)
        self.totals.prompt_tokens += request.prompt

    def cancel(self, request: Request) -> None:
        """End a request now; an id that a running step samples for it is dropped."""
        if request.state is not State.FINISHED:
            self._finish(request, "cancelled")

    def plan(self) -> Step | None:
        """The next step, or None when nothing can be done before ids come back or requests arrive."""
        while True:
            draft = _Draft()
            for request in list(self._rows):
                if request.state is State.DECODE and request.length < request.limit:
                    self._draft_decode(draft, request)
            self._draft_chunks(draft)
            if draft.decode or draft.chunks:
                return self._commit(draft)
            if not draft.preempted:
                return None

    def accept(self, step: Step, ids: dict[int, int]) -> list[Output]:
        """The ids that a step sampled, row by row. An id below 0 means numbers that went wrong."""
        outputs = []
        for row, request in step.sampled:
            if request.state is State.FINISHED:
                continue
            token = ids[row]
            request.pending -= 1
            if token < 0:
                self._finish(request, "error")
                outputs.append(Output(request, (), "error"))
            elif token in request.params.stop_ids and not request.params.ignore_eos:
                self._finish(request, "stop")
                outputs.append(Output(request, (), "stop"))
            else:
                request.tokens.append(token)
                self.totals.output_tokens += 1
                if len(request.tokens) >= request.limit:
                    self._finish(request, "length")
                outputs.append(Output(request, (token,), request.finish_reason))
        return outputs

    def _draft_decode(self, draft: _Draft, request: Request) -> None:
        """Let the row decode, with a page for the token that it feeds; under pressure someone has to go."""
        page = self.cache.page
        while request.fed >= len(request.hold.pages) * page:
            ahead = -(-(request.limit - 1) // page) - len(request.hold.pages)
            roomy = self.cache.available >= 2 * self._lookahead * len(self._rows)
            if self.cache.grow(request.hold, max(1, min(ahead, self._lookahead if roomy else 1))):
                continue
            victim = self._rows.victim(draft.busy)
            if victim is None or victim is request:
                self._preempt(draft, request)
                return
            self._preempt(draft, victim)
        if request.state is State.DECODE:
            draft.decode[request] = None

    def _draft_chunks(self, draft: _Draft) -> None:
        granted = budget = self._pace.budget(len(draft.decode))
        offer: _Loan | None = None  # by the last request, which could not use its turn
        while budget > 0:
            loan, offer = offer, None
            request = loan.to if loan is not None else self._next_prompt(draft)
            if request is None:
                break
            if request.state is State.WAITING and not self._admit(draft, request):
                draft.skip.add(request)
                draft.full = True
                draft.closed = self._rows.vacant  # it is pages that are short: let them gather for this one
                continue
            end = len(request.tokens)
            most = min(budget, loan.tokens) if loan is not None else budget
            request.fed, count = self.cache.span(request.hold, request.fed, end, most)
            draft.skip.add(request)
            if count == 0:
                draft.stalled.add(request)
                offer = self._loan(draft, request)
                continue
            draft.skip -= draft.stalled
            draft.stalled.clear()
            start, stop = request.fed, request.fed + count
            draft.chunks.append((request, Chunk(request.row, start, tuple(request.tokens[start:stop]), stop == end)))
            draft.busy.add(request)
            self.cache.computed(request.hold, start, stop)
            request.fed = stop
            budget -= count
            if len(request.tokens) == request.prompt:
                request.computed += count
            self.totals.computed_tokens += count
            self._fairness.charge(request, count, shared=loan is not None)
            if stop == end:
                self._ahead(draft).add(request)
        self._pace.spent(len(draft.decode), granted - budget)

    def _next_prompt(self, draft: _Draft) -> Request | None:
        """The prompt that is next by fairness: one that runs already or the head of a queue that may still enter."""
        heads: dict[str, dict[str, Request]] = {}
        for request in self._rows:
            if request.state is State.PREFILL and request not in draft.skip:
                heads.setdefault(request.tenant, {}).setdefault(request.client, request)
        for tenant in [] if draft.closed else self._rows.could_enter(self._queues.tenants):
            for head in self._queues.heads(tenant):
                shut = draft.full and self._rows.of_client(tenant, head.client)
                if head not in draft.skip and not head.pending and not shut:
                    heads.setdefault(tenant, {}).setdefault(head.client, head)
        if not heads:
            return None
        return self._fairness.first(heads, self._rows, self._ahead(draft))

    def _ahead(self, draft: _Draft) -> Ahead:
        if draft.ahead is None:
            draft.ahead = self._fairness.ahead(self._rows)
        return draft.ahead

    def _loan(self, draft: _Draft, waiting: Request) -> _Loan | None:
        """The turn of a request whose next page another one computes, if that one can still go on in this step."""
        nodes, page = waiting.hold.nodes, self.cache.page
        owner = nodes[waiting.fed // page].owner
        for request in self._rows:
            if request.hold is owner and request not in draft.skip:
                pairs = zip(nodes, request.hold.nodes, strict=False)
                alike = sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], pairs))
                return _Loan(request, alike * page - request.fed)
        return None

    def _admit(self, draft: _Draft, request: Request) -> bool:
        """Give a waiting request a row and pages, if need be by preempting one of those who hold several."""
        while True:
            hold: Hold | None = None
            if self._rows.vacant:
                spare = sum(other.state is State.DECODE for other in self._rows)
                hold = self.cache.admit(request.tenant, request.tokens, spare)
            if hold is not None:
                break
            victim = self._rows.in_favour_of(request, draft.busy)
            if victim is None:
                return False
            self._preempt(draft, victim)
        if request.admitted < 0:
            draft.entered.append(request)
        self._queues.remove(request)
        self._rows.enter(request)
        request.hold, request.fed, request.granted, request.state = hold, 0, 0, State.PREFILL
        params = request.params
        self._setups.append(RowSetup(request.row, float32(params.temperature), float32(params.top_p), request.seed))
        return True

    def _preempt(self, draft: _Draft, request: Request) -> None:
        draft.decode.pop(request, None)
        draft.skip.add(request)
        draft.preempted = True
        self._leave_row(request)
        request.state = State.WAITING
        self._queues.put(request, first=True)
        self.totals.preemptions += 1

    def _commit(self, draft: _Draft) -> Step:
        sampled = []
        for request, chunk in draft.chunks:
            if chunk.last:
                if len(request.tokens) == request.prompt:
                    self.totals.cached_tokens += request.prompt - request.computed
                request.state = State.DECODE
                request.pending += 1
                sampled.append((request.row, request))
        for request in draft.decode:
            request.fed += 1
            request.pending += 1
            sampled.append((request.row, request))
            self._fairness.charge(request, DECODE_WEIGHT)
        grants = []
        for request in self._rows:
            pages = request.hold.pages
            grants += [(request.row, index, pages[index]) for index in range(request.granted, len(pages))]
            request.granted = len(pages)
        plan = Plan(
            step=self.totals.steps,
            setups=tuple(self._setups),
            grants=tuple(grants),
            chunks=tuple(chunk for _, chunk in draft.chunks),
            decode=tuple(request.row for request in draft.decode),
            freed=tuple(self._freed),
        )
        self.totals.steps += 1
        self._freed, self._setups = [], []
        return Step(plan, tuple(sampled), tuple(draft.entered))

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if request.state is State.WAITING:
            self._queues.remove(request)
        else:
            self._leave_row(request, poisoned=reason == "error")
        request.state, request.finish_reason = State.FINISHED, reason
        self.totals.finished[reason] += 1
        self._fairness.leave(request)
        if reason in ("stop", "length"):
            self._fairness.learn(len(request.tokens) - request.prompt)

    def _leave_row(self, request: Request, *, poisoned: bool = False) -> None:
        """Free the row and the pages. What is known and fed stays in the trie."""
        if poisoned:
            self.cache.forget(request.hold)
        else:
            self.cache.close(request.hold, request.tokens[: request.fed])
        self._setups = [setup for setup in self._setups if setup.row != request.row]
        self._freed.append(request.row)
        self._rows.leave(request)
