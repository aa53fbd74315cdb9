"""However requests are submitted, cancelled, preempted and shared: every reply is that of the request alone."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.core.kv_files.cache_files import COPIED_BYTES, CacheFiles
from engine.core.kv_files.rank_files import RankFiles
from engine.distributed.communicator import SingleRank
from engine.kv_store.page_store import PageStore
from engine.runner.base import AnyRunner
from engine.scheduler.copy_budget import RESTORED_BYTES
from engine.scheduler.drafts.limits import DraftLimits
from engine.scheduler.drafts.ngram_index import NgramIndex
from engine.scheduler.drafts.verification import VerifiedRun
from engine.scheduler.output import ScheduledStep
from engine.scheduler.request import Request, RequestStatus, SamplingParams
from engine.scheduler.scheduler import Scheduler
from engine.scheduler.step_plan import StepPlan
from tests.engine.scheduler.page_machine import VOCAB, MemoryStore, PageMachine, expected_reply

PAGE_SIZE, MAX_CONTEXT = 4, 40
PERSONAS: list[list[int]] = [[], [1] * 18, [1] * 8 + [2] * 14]


class Machine(Protocol):
    verified: dict[int, VerifiedRun]  # by the last plan

    def execute(self, plan: StepPlan) -> dict[int, int]:
        """Row -> sampled id."""
        ...


class Guesses(NgramIndex):
    """Drafts that are right, but for one in `wrong_every` positions. Without them few rows of these tests draft."""

    __slots__ = ("_reply", "_wrong_every")

    def __init__(self, request: Request, reply: list[int], wrong_every: int) -> None:
        super().__init__(request.token_ids, request.num_prompt_tokens)
        self._reply, self._wrong_every = reply, wrong_every

    def update(self, max_tokens: int) -> bool:
        return True

    def rate(self, index: int) -> float:
        return 0.9

    def continuation(self, count: int) -> tuple[int, ...]:
        first = len(self._token_ids) - self._first_output
        guessed = (*self._reply, *[0] * count)[first : first + count]
        return tuple((token + (at % self._wrong_every == 0)) % VOCAB for at, token in enumerate(guessed, first))


class Model:
    """A draft model that says what the guesses of a request say, but for every fifth request that it is asked about."""

    def __init__(self) -> None:
        self._num_asked = 0

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> dict[Request, tuple[int, ...]]:
        found = {}
        for request, count in wanted:
            self._num_asked += 1
            assert request.row >= 0
            assert not request.num_in_flight_tokens
            if self._num_asked % 5 and request.draft_source is not None:
                found[request] = request.draft_source.continuation(count)
        return found

    def release(self) -> None:
        pass

    def prepare(self) -> bool:
        return False

    def close(self) -> None:
        pass


class SchedulerMachine(RuleBasedStateMachine):
    """The scheduler and the page machine. With `overlap`, ids are read one step late."""

    @initialize(
        max_num_seqs=st.integers(1, 4),
        num_extra_pages=st.sampled_from([0, 1, 3, 12]),
        max_prefill_tokens=st.integers(1, 12),
        overlap=st.booleans(),
        page_lookahead=st.integers(1, 3),
        num_slots=st.sampled_from([0, 0, 3, 8, 30]),
        pages_per_step=st.integers(1, 5),
        min_restored_pages=st.integers(1, 3),
        late=st.booleans(),
        num_records=st.sampled_from([0, 2, 7, 40]),
        max_draft_tokens=st.sampled_from([0, 1, 3, 9]),
        wrong_every=st.integers(2, 9),
        apart=st.booleans(),
        by_model=st.booleans(),
    )
    def start(
        self,
        max_num_seqs: int,
        num_extra_pages: int,
        max_prefill_tokens: int,
        overlap: bool,
        page_lookahead: int,
        num_slots: int,
        pages_per_step: int,
        min_restored_pages: int,
        late: bool,
        num_records: int,
        max_draft_tokens: int,
        wrong_every: int,
        apart: bool,
        by_model: bool,
    ) -> None:
        num_pages = MAX_CONTEXT // PAGE_SIZE + num_extra_pages
        self.max_num_seqs, self.max_prefill_tokens, self.overlap = max_num_seqs, max_prefill_tokens, overlap
        self.num_pages, self.num_slots, self.late = num_pages, num_slots, late
        self.options = {
            "page_lookahead": page_lookahead,
            "page_bytes": RESTORED_BYTES // pages_per_step,
            "min_restored_pages": min_restored_pages,
            # Costs so low that rows draft whenever a continuation is known.
            "draft_limits": DraftLimits(
                max_draft_tokens, 0.01, max_tokens=16 if apart else None, beside_prompts=not apart
            ),
        }
        self.drafts, self.apart = max_draft_tokens > 0, apart
        self.wrong_every = wrong_every
        if by_model:  # which needs every id, so that steps do not overlap
            self.overlap = False
            self.options |= {"draft_model": Model(), "draft_model_cost": 0.01}
        self.store = MemoryStore(num_records)
        self._start_engine()
        self.in_flight: deque[tuple[ScheduledStep, dict[int, int], dict[int, VerifiedRun]]] = deque()
        self.requests: list[Request] = []
        self.received: dict[Request, list[int]] = {}
        self.dialogs: dict[str, list[int]] = {}
        self.talks: dict[tuple[str, str], list[int]] = {}

    def _start_engine(self) -> None:
        """A scheduler and a machine with nothing in memory, and what the files have."""
        self.scheduler = Scheduler(
            max_num_seqs=self.max_num_seqs,
            num_pages=self.num_pages,
            max_prefill_tokens=self.max_prefill_tokens,
            max_context=MAX_CONTEXT,
            page_size=PAGE_SIZE,
            max_host_slots=self.num_slots,
            **self.options,
        )
        self.scheduler.cache.host.grow(self.num_slots // 2)
        self.machine = self.make_machine(self.max_num_seqs, self.num_pages, self.num_slots, self.late)
        files = RankFiles(cast(AnyRunner, self.machine), cast(PageStore, self.store))
        self.files = CacheFiles(self.scheduler.cache, files, SingleRank(), page_bytes=COPIED_BYTES // 3, world_size=1)
        self.files.start()

    def make_machine(self, max_num_seqs: int, num_pages: int, num_slots: int, late: bool) -> Machine:
        """What executes the plans."""
        return PageMachine(max_num_seqs, num_pages, PAGE_SIZE, num_slots, late=late)

    def expected_reply(self, prompt: list[int], length: int, stop: frozenset[int], seed: int) -> list[int]:
        """The reply of a request that has the machine to itself."""
        return expected_reply(prompt, length, stop, seed)

    @rule(
        tenant=st.sampled_from("ab"),
        client=st.sampled_from("xyz"),
        persona=st.sampled_from(PERSONAS),
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9),
        continues=st.booleans(),
        length=st.integers(1, 30),
        stops=st.booleans(),
        seed=st.integers(0, 2),
    )
    def submit(
        self,
        tenant: str,
        client: str,
        persona: list[int],
        prompt: list[int],
        continues: bool,
        length: int,
        stops: bool,
        seed: int,
    ) -> None:
        before = self.dialogs.get(tenant, persona) if continues else persona
        prompt = (before + prompt)[: MAX_CONTEXT - 2]
        self._submit(tenant, client, prompt, length, frozenset({0}) if stops else frozenset(), seed)

    @rule(
        tenant=st.sampled_from("ab"),
        client=st.sampled_from("xyz"),
        message=st.integers(1, 9),
        steps=st.sampled_from([1, 3, 40]),
        gives_up=st.booleans(),
    )
    def talk(self, tenant: str, client: str, message: int, steps: int, gives_up: bool) -> None:
        """A member goes on with a dialog that others may have pushed out of the pages since."""
        before = self.talks.get((tenant, client), [ord(client) % VOCAB] * 13)
        if len(before) + message + 3 > MAX_CONTEXT:
            before = before[:16]
        request = self._submit(tenant, client, [*before, *[message % VOCAB] * message], 3, frozenset(), 0)
        for _ in range(steps):
            if request.status is not RequestStatus.FINISHED:
                self._step()
        if gives_up:
            self.scheduler.cancel_request(request)
        self.talks[tenant, client] = list(request.token_ids)

    def _submit(
        self, tenant: str, client: str, prompt: list[int], length: int, stop: frozenset[int], seed: int
    ) -> Request:
        params = SamplingParams(temperature=0.0, max_tokens=length, stop_token_ids=stop)
        request = Request(len(self.requests), prompt, params, seed, client, tenant)
        longest = min(length, MAX_CONTEXT - len(prompt)) if self.drafts else 0
        reply = self.expected_reply(prompt, longest, stop, seed)
        request.draft_source = Guesses(request, reply, self.wrong_every)
        self.scheduler.add_request(request)
        self.requests.append(request)
        self.received[request] = []
        return request

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.requests[-6:]))
        self.scheduler.cancel_request(request)
        assert request.status is RequestStatus.FINISHED

    @rule(tenant=st.sampled_from("ab"))
    def erase(self, tenant: str) -> None:
        """From now on no request finds what the tenant's requests have computed."""
        self.scheduler.erase(tenant)
        self.files.erase(tenant)
        assert tenant not in {page.tenant for _, page in self.store.catalogue.values()}
        assert self.store.contents.keys() <= {(record, stamp) for record, (stamp, _) in self.store.catalogue.items()}
        assert not self.scheduler.cache._match(tenant, self.dialogs.get(tenant, [1] * 18), 1)

    @rule(times=st.integers(1, 4), commits=st.booleans())
    def write_files(self, times: int, commits: bool) -> None:
        """Pages are stored, or what an engine before had stored is restored."""
        for _ in range(times):
            self.files.step(idle=True)
        if commits:
            self.files._commit()

    @rule(lost=st.sets(st.integers(0, 12), max_size=2), orderly=st.booleans(), restores=st.integers(0, 3))
    def restart(self, lost: set[int], orderly: bool, restores: int) -> None:
        """The engine ends, in order or not, and another one starts with its files. Some records are damaged.

        Then members go on with their dialogs, while pages are still restored.
        """
        self.finish()
        if orderly:
            self.files.close()
        self.in_flight.clear()
        self.store.reopen(lost)
        self._start_engine()
        for number, ((tenant, client), said) in enumerate(self.talks.items()):
            if number == restores:
                self.scheduler.cache.host.grow(self.num_slots)
                self.files.step(idle=True)
            if len(said) + 4 <= MAX_CONTEXT:
                self._submit(tenant, client, [*said, 1], 3, frozenset(), 0)
        self.finish()

    @rule()
    def more_host_memory(self) -> None:
        host = self.scheduler.cache.host
        host.grow(host.num_slots + 3)

    @rule(steps=st.integers(1, 12))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    @rule()
    def finish(self) -> None:
        """All requests end, and then no page is held."""
        for _ in range(3000):
            if not self._step():
                break
        assert all(request.status is RequestStatus.FINISHED for request in self.requests)
        self.scheduler.cache.check()
        assert self.scheduler.cache.num_held_pages == 0
        assert self.scheduler.cache.num_available_pages == self.scheduler.cache.num_pages

    @invariant()
    def pages_are_where_they_should_be(self) -> None:
        if hasattr(self, "scheduler"):
            cache = self.scheduler.cache
            assert cache.num_held_pages + cache.num_available_pages == cache.num_pages
            assert self.scheduler.num_running <= self.max_num_seqs
            cache.check(request.page_table for request in self.requests if request.row >= 0)
            self._check_catalogue()

    def _check_catalogue(self) -> None:
        """What is stored of a page that is in memory can be found again: its own tokens, after the page before it."""
        self.store.check_texts()
        for tenant, root in self.scheduler.cache._trie.roots.items():
            for node in root.descendants():
                if node.record >= 0:
                    _, page = self.store.catalogue[node.record]
                    assert (page.tenant, page.token_ids) == (tenant, node.token_ids)
                    assert node.parent is not None
                    assert page.parent_record == (-1 if node.parent.is_root else node.parent.record)

    def _step(self) -> bool:
        step = self.scheduler.schedule()
        if step is not None:
            num_tokens = sum(len(chunk.token_ids) for chunk in step.plan.chunks)
            num_drafts = sum(len(each.drafts) for each in step.plan.verifications)
            if self.apart:
                assert num_tokens <= self.max_prefill_tokens
                assert not num_drafts or (not num_tokens and num_drafts + len(step.sampled) <= 16)
            else:
                assert num_tokens + num_drafts <= self.max_prefill_tokens
            ids = self.machine.execute(step.plan)
            self.in_flight.append((step, ids, self.machine.verified))
        if self.in_flight and (not self.overlap or step is None or len(self.in_flight) > 1):
            done, ids, verified = self.in_flight.popleft()
            for output in self.scheduler.update_from_output(done, ids, verified=verified):
                self._receive(output.request, output.token_ids)
            return True
        return step is not None

    def _receive(self, request: Request, ids: tuple[int, ...]) -> None:
        self.received[request] += ids
        stop = request.params.stop_token_ids
        length = request.max_total_tokens - request.num_prompt_tokens
        expected = self.expected_reply(request.token_ids[: request.num_prompt_tokens], length, stop, request.seed)
        received = self.received[request]
        assert received == expected[: len(received)]
        if request.finish_reason in ("stop", "length"):
            assert received == expected
            assert (request.finish_reason == "length") == (len(received) == length)
            self.dialogs[request.tenant] = request.token_ids
        assert request.output_token_ids == received
        assert 0 <= request.usage.cached_tokens < request.num_prompt_tokens


SchedulerMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)
TestScheduler = SchedulerMachine.TestCase


@pytest.mark.long
def test_many_more_interleavings() -> None:
    run_state_machine_as_test(
        SchedulerMachine, settings=settings(max_examples=150, stateful_step_count=30, deadline=None)
    )
