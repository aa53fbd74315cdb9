"""Fairness, chunks, sharing, preemption and cancelling, seen in the plans."""

import pytest

from engine.scheduler.output import ScheduledStep, TokenOutput
from engine.scheduler.request import Request, RequestStatus, SamplingParams
from engine.scheduler.scheduler import Scheduler
from tests.engine.scheduler.page_machine import PageMachine, alone

GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


class Bench:
    """A scheduler with the page machine, and what each step planned."""

    def __init__(self, *, rows: int = 4, pages: int = 256, chunk: int = 16, context: int = 256) -> None:
        self.scheduler = Scheduler(max_num_seqs=rows, num_pages=pages, max_prefill_tokens=chunk, max_context=context)
        self.machine = PageMachine(rows, pages, 16)
        self.steps: list[ScheduledStep] = []
        self._ids = 0

    def add(self, prompt: list[int], params: SamplingParams = GREEDY, client: str = "c", tenant: str = "t") -> Request:
        request = Request(self._ids, prompt, params, 0, client, tenant)
        self._ids += 1
        self.scheduler.add_request(request)
        return request

    def turn(self) -> list[TokenOutput]:
        step = self.scheduler.schedule()
        assert step is not None
        self.steps.append(step)
        return self.scheduler.update_from_output(step, self.machine.launch(step.plan))

    def until_first_id(self, request: Request) -> int:
        """Steps until the request has its first id."""
        for count in range(1, 1000):
            self.turn()
            if request.output_token_ids:
                return count
        raise AssertionError("never")

    def drain(self) -> int:
        count = 0
        while self.scheduler.num_running or self.scheduler.num_waiting:
            self.turn()
            count += 1
        self.scheduler.cache.check()
        return count


def test_a_flood_of_one_tenant_delays_anothers_request_by_at_most_one_chunk() -> None:
    bench = Bench(rows=4, chunk=16)
    for member in range(40):
        bench.add([member % 7] * 200, client=f"flood{member}", tenant="loud")
    for _ in range(30):
        bench.turn()
    quiet = bench.add([5] * 16, tenant="quiet")
    assert bench.until_first_id(quiet) <= 2


def test_a_flood_of_one_member_does_not_keep_another_out() -> None:
    bench = Bench(rows=4, chunk=16)
    for _ in range(20):
        bench.add([1] * 100, SamplingParams(temperature=0.0, max_tokens=100), client="loud")
    for _ in range(30):
        bench.turn()
    quiet = bench.add([5] * 16, client="quiet")
    assert bench.until_first_id(quiet) <= 2


def test_tenants_get_equal_shares_of_prefill() -> None:
    bench = Bench(rows=8, chunk=16, pages=1000)
    for n in range(12):
        bench.add([n % 7] * 240, client=str(n), tenant="many")
    few = [bench.add([n % 7] * 240, client=str(n), tenant="few") for n in range(3)]
    while any(request.status is not RequestStatus.FINISHED for request in few):
        bench.turn()
    computed = sum(request.num_prefilled_tokens for request in few)
    assert bench.scheduler.totals.num_prefilled_tokens - computed <= 1.3 * computed


def test_a_newcomer_gains_nothing_from_having_been_away() -> None:
    bench = Bench(rows=1, chunk=16, pages=400)
    for _ in range(6):
        bench.add([1] * 64, tenant="old", client="a")
    for _ in range(20):
        bench.turn()
    newcomers = [bench.add([2] * 64, tenant="new", client="b") for _ in range(6)]
    while not all(r.status is RequestStatus.FINISHED for r in newcomers[:3]):
        bench.turn()
    assert bench.scheduler.totals.finished["length"] >= 5  # the old tenant was served meanwhile


def test_members_who_take_turns_share_the_rows_evenly_and_no_reply_stops_midway() -> None:
    """Four guilds of eight members, 16 rows, replies of equal length: full waves, or rows stay empty at the end."""
    rows, turns, length = 16, 4, 24
    bench = Bench(rows=rows, chunk=96, pages=2000, context=512)
    said = {(guild, member): [guild] * 80 for guild in range(4) for member in range(8)}  # the persona first
    left = dict.fromkeys(said, turns)
    talking: dict[Request, tuple[int, int]] = {}

    def speak(guild: int, member: int) -> None:
        said[guild, member] += [4 + member % 3] * 10
        params = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True)
        request = bench.add(list(said[guild, member]), params, client=str(member), tenant=str(guild))
        talking[request] = guild, member

    for who in said:
        speak(*who)
    while talking:
        for output in bench.turn():
            if output.finish_reason:
                who = talking.pop(output.request)
                said[who] += output.request.output_token_ids
                left[who] -= 1
                if left[who]:
                    speak(*who)
    waves = len(said) * turns // rows
    prompts = sum(bool(step.plan.chunks) for step in bench.steps)
    assert bench.scheduler.totals.preemptions == 0
    assert len(bench.steps) <= waves * length + prompts


def test_who_waits_for_a_persona_lends_its_turn_to_whoever_computes_it() -> None:
    bench = Bench(rows=8, chunk=32, pages=512)
    persona = [3] * 96
    requests = [bench.add([*persona, n], client=str(n)) for n in range(4)]
    bench.turn()
    bench.turn()
    assert requests[0].num_computed_tokens == 64
    assert [request.status for request in requests].count(RequestStatus.PREFILL) == 2  # one waits in a row, and no more
    bench.drain()
    assert bench.scheduler.totals.num_prefilled_tokens == 96 + 4


@pytest.mark.parametrize("level", ["tenant", "client"])
def test_newcomers_without_end_do_not_starve_a_long_prompt(level: str) -> None:
    """Every step brings another one, whose prompt would fill the step."""
    bench = Bench(rows=4, chunk=16, pages=2000)

    def newcomer(number: int) -> None:
        name = {level: f"new{number}"}
        bench.add([number % 7] * 16, SamplingParams(temperature=0.0, max_tokens=1), **name)

    for number in range(10):
        newcomer(number)
    patient = bench.add([5] * 80, **{level: "patient"})
    for number in range(10, 200):
        newcomer(number)
        bench.turn()
        if patient.output_token_ids:
            break
    assert patient.output_token_ids


def test_a_reply_that_lost_its_row_goes_on_before_others_of_its_tenant_begin() -> None:
    bench = Bench(rows=4, chunk=64, pages=2000)
    long = SamplingParams(temperature=0.0, max_tokens=120, ignore_eos=True)
    talking = [bench.add([n % 7] * 20, long, client=f"m{n}", tenant="guild") for n in range(12)]
    for _ in range(40):
        bench.turn()
    other = bench.add([1] * 10, SamplingParams(temperature=0.0, max_tokens=1), tenant="other")
    bench.turn()
    assert other.status is RequestStatus.FINISHED
    (stopped,) = (
        request for request in talking if request.status is RequestStatus.WAITING and request.output_token_ids
    )
    said = len(stopped.output_token_ids)
    bench.turn()
    bench.turn()
    assert len(stopped.output_token_ids) > said


def test_a_lent_turn_ends_where_what_both_want_ends() -> None:
    bench = Bench(rows=4, chunk=32, pages=512)
    persona = [3] * 64
    loud = bench.add([*persona, *[4] * 128], client="loud")
    bench.turn()
    quiet = bench.add([*persona, 5], client="quiet")
    bench.turn()
    assert loud.num_computed_tokens == 64
    bench.turn()
    assert quiet.output_token_ids


def test_decoding_goes_on_in_every_step_of_a_long_prefill() -> None:
    bench = Bench(rows=4, chunk=16)
    talking = bench.add([1] * 8, SamplingParams(temperature=0.0, max_tokens=60))
    bench.until_first_id(talking)
    bench.add([2] * 240)
    for _ in range(15):
        before = len(talking.output_token_ids)
        bench.turn()
        assert len(talking.output_token_ids) == before + 1
        assert sum(len(chunk.token_ids) for chunk in bench.steps[-1].plan.chunks) == 16


def test_a_chunk_is_shared_by_several_short_prompts() -> None:
    bench = Bench(rows=4, chunk=16)
    requests = [bench.add([n] * 5, client=str(n)) for n in range(3)]
    bench.turn()
    assert all(request.output_token_ids for request in requests)


def test_a_persona_that_many_bring_at_once_is_computed_once() -> None:
    bench = Bench(rows=16, chunk=32, pages=512)
    persona = [3] * 96
    requests = [bench.add([*persona, n % 7, n // 7], client=str(n)) for n in range(16)]
    bench.drain()
    assert bench.scheduler.totals.num_prefilled_tokens == 96 + 16 * 2
    assert sum(request.usage.cached_tokens for request in requests) == 15 * 96


def test_a_persona_is_not_shared_across_tenants() -> None:
    bench = Bench(rows=16, chunk=32, pages=512)
    for n in range(4):
        bench.add([*[3] * 96, n], tenant=str(n))
    bench.drain()
    assert bench.scheduler.totals.num_prefilled_tokens == 4 * 97


def test_the_shared_prefill_goes_on_when_its_request_is_cancelled() -> None:
    bench = Bench(rows=4, chunk=16)
    first, second = bench.add([3] * 100, client="a"), bench.add([3] * 100, client="b")
    for _ in range(3):
        bench.turn()
    bench.scheduler.cancel_request(first)
    bench.drain()
    assert second.output_token_ids == alone([3] * 100, 8)
    assert bench.scheduler.totals.num_prefilled_tokens <= 100 + 16


def test_the_next_turn_of_a_dialog_finds_the_reply_in_the_cache() -> None:
    bench = Bench()
    first = bench.add([3] * 40, SamplingParams(temperature=0.0, max_tokens=40))
    bench.drain()
    second = bench.add([*first.token_ids, 1, 2, 3])
    bench.drain()
    assert second.usage.cached_tokens == 64  # the last token of the reply was never fed: 79 tokens, 4 full pages


def test_under_memory_pressure_requests_are_preempted_and_none_is_lost() -> None:
    bench = Bench(rows=4, pages=20, chunk=64, context=256)
    requests = [bench.add([n] * 60, SamplingParams(temperature=0.0, max_tokens=100), client=str(n)) for n in range(4)]
    bench.drain()
    assert bench.scheduler.totals.preemptions > 0
    for n, request in enumerate(requests):
        assert request.output_token_ids == alone([n] * 60, 100)


def test_cancel_frees_the_row_in_the_next_step() -> None:
    bench = Bench(rows=1)
    first = bench.add([1] * 8, SamplingParams(temperature=0.0, max_tokens=200))
    second = bench.add([2] * 8)
    bench.turn()
    bench.scheduler.cancel_request(first)
    bench.turn()
    assert second.output_token_ids
    assert first.finish_reason == "cancelled"


def test_a_waiting_request_can_be_cancelled() -> None:
    bench = Bench(rows=1)
    bench.add([1] * 8)
    second = bench.add([2] * 8)
    bench.turn()
    bench.scheduler.cancel_request(second)
    assert bench.scheduler.num_waiting == 0
    bench.drain()
    assert second.output_token_ids == []


def test_the_context_ends_a_reply() -> None:
    bench = Bench(context=32)
    request = bench.add([1] * 30, SamplingParams(temperature=0.0, max_tokens=None))
    bench.drain()
    assert (len(request.output_token_ids), request.finish_reason) == (2, "length")


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_token_ends_a_reply_and_is_no_part_of_it(ignore_eos: bool) -> None:
    whole = alone([1] * 8, 30)
    stop = whole[10]
    params = SamplingParams(temperature=0.0, max_tokens=30, stop_token_ids=frozenset({stop}), ignore_eos=ignore_eos)
    bench = Bench()
    request = bench.add([1] * 8, params)
    bench.drain()
    assert request.output_token_ids == (whole if ignore_eos else whole[: whole.index(stop)])
    assert request.finish_reason == ("length" if ignore_eos else "stop")


def test_numbers_that_went_wrong_fail_their_request_alone() -> None:
    bench = Bench()
    bad, good = bench.add([1] * 40, client="a"), bench.add([2] * 40, client="b")
    while not bad.output_token_ids:
        bench.turn()
    step = bench.scheduler.schedule()
    assert step is not None
    ids = bench.machine.launch(step.plan)
    bench.scheduler.update_from_output(step, ids | {bad.row: -1})
    assert bad.finish_reason == "error"
    bench.drain()
    assert good.output_token_ids == alone([2] * 40, 8)
    again = bench.add([1] * 40)
    bench.drain()
    assert again.usage.cached_tokens == 0


def test_the_same_calls_give_the_same_plans() -> None:
    def plans() -> list[ScheduledStep]:
        bench = Bench(rows=3, pages=24, chunk=16)
        for n in range(12):
            bench.add([n % 5] * (20 + 13 * n % 90), client=str(n % 4), tenant=str(n % 2))
        bench.drain()
        return bench.steps

    assert [step.plan for step in plans()] == [step.plan for step in plans()]
