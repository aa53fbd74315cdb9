"""What is drafted: continuations that a request's own text knows, as many as pay."""

import random

import pytest

from engine.scheduler.drafts.drafter import MAX_READ, num_drafts, num_expected
from engine.scheduler.drafts.limits import DraftLimits
from engine.scheduler.drafts.ngram_index import ID_BITS, MAX_PROMPT, NGRAM, NgramIndex
from engine.scheduler.drafts.verification import num_accepted
from engine.scheduler.fairness import DECODE_WEIGHT
from engine.scheduler.request import Request, SamplingParams
from engine.scheduler.scheduler import Scheduler
from tests.engine.scheduler.page_machine import PageMachine, expected_reply

ALL = 1 << 30  # more than any request has


def index_of(*token_ids: int, prompt: int = 0) -> NgramIndex:
    return NgramIndex(list(token_ids), prompt)


class TestIndex:
    def test_a_continuation_needs_equal_tokens(self) -> None:
        assert not index_of(1, 2, 3, 4, 9, 2, 3).update(ALL)
        found = index_of(1, 2, 3, 4, 9, 1, 2, 3)
        assert found.update(ALL)
        assert found.continuation(2) == (4, 9)

    def test_the_latest_occurrence_counts(self) -> None:
        found = index_of(1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3)
        assert found.update(ALL)
        assert found.continuation(1) == (5,)

    def test_a_continuation_that_came_true_is_followed(self) -> None:
        found = index_of(1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 8, 1, 2, 3, 4, 5, 6)
        assert found.update(ALL)
        assert found.continuation(1) == (7,)  # although "4 5 6" was followed by 8 later

    def test_a_continuation_up_to_the_end_repeats_itself(self) -> None:
        found = index_of(1, 2, 1, 2, 1, 2)
        assert found.update(ALL)
        assert found.continuation(5) == (1, 2, 1, 2, 1)

    def test_tokens_may_come_one_at_a_time(self) -> None:
        generator = random.Random(1)
        token_ids = [generator.randrange(3) for _ in range(200)]
        growing: list[int] = []
        one_at_a_time = NgramIndex(growing, 0)
        for token_id in token_ids:
            growing.append(token_id)
            known = one_at_a_time.update(ALL)
            at_once = NgramIndex(list(growing), 0)
            assert at_once.update(ALL) == known
            assert not known or at_once.continuation(4) == one_at_a_time.continuation(4)

    def test_a_text_may_be_taken_in_a_part_at_a_time(self) -> None:
        generator = random.Random(2)
        for _ in range(50):
            token_ids = [generator.randrange(3) for _ in range(60)]
            at_once, in_parts = NgramIndex(token_ids, 20), NgramIndex(token_ids, 20)
            known = at_once.update(ALL)
            while in_parts.num_unread > 7:
                assert not in_parts.update(7)  # nothing is known before all is taken in
            assert in_parts.update(7) == known
            assert in_parts.num_unread == 0
            assert not known or at_once.continuation(4) == in_parts.continuation(4)
            assert [in_parts.rate(length) for length in range(20)] == [at_once.rate(length) for length in range(20)]

    def test_large_ids_are_told_apart(self) -> None:
        largest = (1 << ID_BITS) - 1
        assert not index_of(largest, 0, 1, 5, largest - 1, 0, 1).update(ALL)
        assert index_of(largest, 0, 1, 5, largest, 0, 1).update(ALL)

    def test_rates_follow_the_reply_and_not_the_prompt(self) -> None:
        pattern = [1, 2, 3, 4, 5]
        prompt = index_of(*pattern * 6, prompt=30)
        reply = index_of(*pattern * 6)
        wrong = index_of(*(token for n in range(20) for token in (1, 2, 3, 10 + n)))
        for each in (prompt, reply, wrong):
            each.update(ALL)
        assert prompt.rate(-NGRAM) < reply.rate(-NGRAM)
        assert wrong.rate(-NGRAM) < prompt.rate(-NGRAM)


class TestCount:
    def test_none_where_continuations_were_wrong(self) -> None:
        tokens = [token for n in range(20) for token in (1, 2, 3, 10 + n)]
        wrong = index_of(*tokens, 1, 2, 3)
        assert wrong.update(ALL)
        assert num_drafts(wrong, 0.2, 8) == 0

    def test_many_where_they_were_right(self) -> None:
        right = index_of(*[1, 2, 3, 4, 5] * 12)
        assert right.update(ALL)
        assert num_drafts(right, 0.2, 8) == 8
        assert num_drafts(right, 0.2, 3) == 3

    def test_fewer_where_a_token_costs_more(self) -> None:
        fresh = index_of(1, 2, 3, 4, 1, 2, 3, prompt=7)
        assert fresh.update(ALL)
        counts = [num_drafts(fresh, cost, 12) for cost in (0.01, 0.1, 0.3, 0.9)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > 3
        assert counts[-1] == 0


class TestAhead:
    def source(self) -> NgramIndex:
        found = index_of(1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3)  # goes on with 4 5 6 7 8 9 0
        assert found.update(ALL)
        return found

    def test_steps_in_flight_give_what_is_expected_now(self) -> None:
        source = self.source()
        assert num_expected(source, []) == 0
        assert num_expected(source, [()]) == 1
        assert num_expected(source, [(4, 5, 6)]) == 4
        assert num_expected(source, [(), (5, 6)]) == 4

    def test_drafts_that_are_not_expected_any_more_give_one_token(self) -> None:
        source = self.source()
        assert num_expected(source, [(8, 9, 0)]) == 1
        assert num_expected(source, [(4, 9, 6)]) == 2
        assert num_expected(source, [(4, 9), (6, 7, 0)]) == 5

    def test_fewer_where_more_must_come_true_first(self) -> None:
        source = self.source()
        counts = [num_drafts(source, 0.1, 12, ahead=ahead) for ahead in (0, 2, 4, 30)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > counts[-1] == 0

    def test_none_where_a_step_with_drafts_costs_more_than_they_promise(self) -> None:
        source = self.source()
        assert num_drafts(source, 0.01, 12, first_cost=0.2) > 4
        assert num_drafts(source, 0.01, 12, first_cost=9.0) == 0


def test_only_the_end_of_a_long_prompt_is_looked_at() -> None:
    prompt = [7, 8, 9, 10, *[1] * MAX_PROMPT]
    assert not NgramIndex([*prompt, 7, 8, 9], len(prompt)).update(ALL)
    assert NgramIndex([*prompt[:-4], 7, 8, 9], len(prompt) - 4).update(ALL)


def test_the_longest_right_beginning_is_accepted() -> None:
    assert num_accepted((5, 6, 7), (5, 6, 7, 8)) == 3
    assert num_accepted((5, 6, 7), (5, 9, 7, 8)) == 1
    assert num_accepted((5,), (-1, 4)) == 0


class Alone:
    """A scheduler and a page machine for one request whose reply is known: its drafts are its own text's."""

    def __init__(self, length: int, stop: frozenset[int] = frozenset(), temperature: float = 0.0) -> None:
        self.scheduler = Scheduler(
            max_num_seqs=2, num_pages=40, max_prefill_tokens=32, max_context=80, page_size=4,
            draft_limits=DraftLimits(6, 0.05),
        )  # fmt: skip
        self.machine = PageMachine(2, 40, 4)
        prompt = [1, 2, 3]
        reply = expected_reply(prompt, length, stop)
        # A prompt that contains its own continuation would change the reply, so the index reads another text.
        self.request = Request(0, prompt, SamplingParams(temperature, max_tokens=length, stop_token_ids=stop))
        self.request.draft_source = Told(self.request, [*reply, 0, 0, 0, 0, 0, 0, 0])
        self.reply = reply
        self.scheduler.add_request(self.request)
        self.sizes: list[int] = []

    def run(self) -> None:
        while (step := self.scheduler.schedule()) is not None and self.request.finish_reason is None:
            ids = self.machine.execute(step.plan)
            for output in self.scheduler.update_from_output(step, ids, verified=self.machine.verified):
                self.sizes.append(len(output.token_ids))


class Told(NgramIndex):
    """Always right."""

    __slots__ = ("_reply",)

    def __init__(self, request: Request, reply: list[int]) -> None:
        super().__init__(request.token_ids, request.num_prompt_tokens)
        self._reply = reply

    def update(self, max_tokens: int) -> bool:
        return True

    def rate(self, index: int) -> float:
        return 0.99

    def continuation(self, count: int) -> tuple[int, ...]:
        first = len(self._token_ids) - self._first_output
        return tuple(self._reply[first : first + count])


def test_a_step_takes_in_no_more_of_long_prompts_than_one_of_few_rows() -> None:
    num_rows, prompt_length = 24, 300
    scheduler = Scheduler(
        max_num_seqs=num_rows, num_pages=24 * 90, max_prefill_tokens=24 * 300, max_context=360, page_size=4,
        draft_limits=DraftLimits(6, 0.05),
    )  # fmt: skip
    machine = PageMachine(num_rows, 24 * 90, 4)
    requests = [
        Request(number, [number, *range(3, prompt_length + 2)], SamplingParams(0.0, max_tokens=50))
        for number in range(num_rows)
    ]
    for request in requests:
        scheduler.add_request(request)

    def num_read() -> int:
        return sum(
            len(request.token_ids) - request.draft_source.num_unread
            for request in requests
            if request.draft_source is not None
        )

    before = 0
    for _ in range(20):
        step = scheduler.schedule()
        assert step is not None
        assert num_read() - before <= MAX_READ
        before = num_read()
        scheduler.update_from_output(step, machine.execute(step.plan), verified=machine.verified)
    assert all(request.draft_source is not None and request.draft_source.num_unread < 10 for request in requests)


class TestRequests:
    def test_accepted_drafts_come_in_one_step(self) -> None:
        alone = Alone(20)
        alone.run()
        assert alone.request.output_token_ids == alone.reply
        assert alone.sizes == [1, 7, 7, 5]
        totals = alone.scheduler.totals
        assert (totals.drafted_tokens, totals.accepted_tokens, totals.output_tokens) == (16, 16, 20)

    def test_ids_after_a_stop_are_dropped(self) -> None:
        full = expected_reply([1, 2, 3], 30)
        stop = full[5]
        alone = Alone(30, frozenset({stop}))
        alone.run()
        assert alone.request.finish_reason == "stop"
        assert alone.request.output_token_ids == full[: full.index(stop)]

    @pytest.mark.parametrize("length", range(1, 12))
    def test_no_more_than_max_tokens(self, length: int) -> None:
        alone = Alone(length)
        alone.run()
        assert alone.request.finish_reason == "length"
        assert len(alone.request.output_token_ids) == length

    @pytest.mark.parametrize("right", [True, False])
    def test_only_accepted_drafts_are_charged(self, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = Alone(20)
        if not right:
            alone.request.draft_source = Told(alone.request, [6 - token for token in alone.reply])
        fairness = alone.scheduler._fairness
        charge, charged = fairness.charge, []

        def count(request: Request, tokens: float, *, shared: bool = False) -> None:
            charged.append(tokens)
            charge(request, tokens, shared=shared)

        monkeypatch.setattr(fairness, "charge", count)
        alone.run()
        assert sum(charged) == 3 + 19 * DECODE_WEIGHT
