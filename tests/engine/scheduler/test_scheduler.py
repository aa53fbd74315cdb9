"""Fairness, chunked prefill, shared prefixes, preemption and cancellation, as they show in the plans."""

import pytest

from engine.scheduler.output import ScheduledStep, TokenOutput
from engine.scheduler.request import Request, RequestStatus, SamplingParams
from engine.scheduler.scheduler import Scheduler
from tests.engine.scheduler.page_machine import PageMachine, expected_reply

GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


class Harness:
    """A scheduler and a page machine, and the steps that they have run."""

    def __init__(
        self,
        *,
        max_num_seqs: int = 4,
        num_pages: int = 256,
        max_prefill_tokens: int = 16,
        max_context: int = 256,
    ) -> None:
        self.scheduler = Scheduler(
            max_num_seqs=max_num_seqs,
            num_pages=num_pages,
            max_prefill_tokens=max_prefill_tokens,
            max_context=max_context,
        )
        self.machine = PageMachine(max_num_seqs, num_pages, 16)
        self.steps: list[ScheduledStep] = []
        self._num_requests = 0

    def add(self, prompt: list[int], params: SamplingParams = GREEDY, client: str = "c", tenant: str = "t") -> Request:
        request = Request(self._num_requests, prompt, params, 0, client, tenant)
        self._num_requests += 1
        self.scheduler.add_request(request)
        return request

    def step(self) -> list[TokenOutput]:
        step = self.scheduler.schedule()
        assert step is not None
        self.steps.append(step)
        return self.scheduler.update_from_output(step, self.machine.execute(step.plan))

    def steps_until_first_token(self, request: Request) -> int:
        for count in range(1, 1000):
            self.step()
            if request.output_token_ids:
                return count
        raise AssertionError("the request got no token")

    def run_until_done(self) -> None:
        while self.scheduler.num_running or self.scheduler.num_waiting:
            self.step()
        self.scheduler.cache.check()


def test_a_flood_of_one_tenant_delays_another_tenant_by_at_most_one_chunk() -> None:
    harness = Harness(max_num_seqs=4, max_prefill_tokens=16)
    for member in range(40):
        harness.add([member % 7] * 200, client=f"flood{member}", tenant="loud")
    for _ in range(30):
        harness.step()
    quiet = harness.add([5] * 16, tenant="quiet")
    assert harness.steps_until_first_token(quiet) <= 2


def test_a_flood_of_one_client_does_not_lock_out_another() -> None:
    harness = Harness(max_num_seqs=4, max_prefill_tokens=16)
    for _ in range(20):
        harness.add([1] * 100, SamplingParams(temperature=0.0, max_tokens=100), client="loud")
    for _ in range(30):
        harness.step()
    quiet = harness.add([5] * 16, client="quiet")
    assert harness.steps_until_first_token(quiet) <= 2


def test_tenants_get_equal_shares_of_prefill() -> None:
    harness = Harness(max_num_seqs=8, max_prefill_tokens=16, num_pages=1000)
    for n in range(12):
        harness.add([n % 7] * 240, client=str(n), tenant="many")
    few = [harness.add([n % 7] * 240, client=str(n), tenant="few") for n in range(3)]
    while any(request.status is not RequestStatus.FINISHED for request in few):
        harness.step()
    computed = sum(request.num_prefilled_tokens for request in few)
    assert harness.scheduler.totals.num_prefilled_tokens - computed <= 1.3 * computed


def test_a_new_tenant_gains_nothing_from_its_absence() -> None:
    harness = Harness(max_num_seqs=1, max_prefill_tokens=16, num_pages=400)
    for _ in range(6):
        harness.add([1] * 64, tenant="old", client="a")
    for _ in range(20):
        harness.step()
    newcomers = [harness.add([2] * 64, tenant="new", client="b") for _ in range(6)]
    while not all(r.status is RequestStatus.FINISHED for r in newcomers[:3]):
        harness.step()
    assert harness.scheduler.totals.finished["length"] >= 5  # the old tenant was served meanwhile


def test_clients_that_take_turns_share_the_rows_evenly_without_preemption() -> None:
    """Four tenants of eight clients, 16 rows, replies of equal length: unless every wave is full, rows end up empty."""
    max_num_seqs, num_turns, length = 16, 4, 24
    harness = Harness(max_num_seqs=max_num_seqs, max_prefill_tokens=96, num_pages=2000, max_context=512)
    history = {(tenant, client): [tenant] * 80 for tenant in range(4) for client in range(8)}  # the persona first
    left = dict.fromkeys(history, num_turns)
    running: dict[Request, tuple[int, int]] = {}

    def send(tenant: int, client: int) -> None:
        history[tenant, client] += [4 + client % 3] * 10
        params = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True)
        request = harness.add(list(history[tenant, client]), params, client=str(client), tenant=str(tenant))
        running[request] = tenant, client

    for key in history:
        send(*key)
    while running:
        for output in harness.step():
            if output.finish_reason:
                key = running.pop(output.request)
                history[key] += output.request.output_token_ids
                left[key] -= 1
                if left[key]:
                    send(*key)
    num_waves = len(history) * num_turns // max_num_seqs
    num_prefill_steps = sum(bool(step.plan.chunks) for step in harness.steps)
    assert harness.scheduler.totals.preemptions == 0
    assert len(harness.steps) <= num_waves * length + num_prefill_steps


def test_a_request_blocked_on_a_persona_donates_its_budget_to_the_one_that_computes_it() -> None:
    harness = Harness(max_num_seqs=8, max_prefill_tokens=32, num_pages=512)
    persona = [3] * 96
    requests = [harness.add([*persona, n], client=str(n)) for n in range(4)]
    harness.step()
    harness.step()
    assert requests[0].num_computed_tokens == 64
    in_prefill = [request for request in requests if request.status is RequestStatus.PREFILL]
    assert len(in_prefill) == 2  # only one request holds a row while it is blocked
    harness.run_until_done()
    assert harness.scheduler.totals.num_prefilled_tokens == 96 + 4


@pytest.mark.parametrize("level", ["tenant", "client"])
def test_an_endless_stream_of_newcomers_does_not_starve_a_long_prompt(level: str) -> None:
    """Before every step a newcomer arrives whose prompt would fill the step."""
    harness = Harness(max_num_seqs=4, max_prefill_tokens=16, num_pages=2000)

    def newcomer(number: int) -> None:
        name = {level: f"new{number}"}
        harness.add([number % 7] * 16, SamplingParams(temperature=0.0, max_tokens=1), **name)

    for number in range(10):
        newcomer(number)
    long_prompt = harness.add([5] * 80, **{level: "long_prompt"})
    for number in range(10, 200):
        newcomer(number)
        harness.step()
        if long_prompt.output_token_ids:
            break
    assert long_prompt.output_token_ids


def test_a_preempted_reply_resumes_before_other_replies_of_its_tenant_start() -> None:
    harness = Harness(max_num_seqs=4, max_prefill_tokens=64, num_pages=2000)
    long = SamplingParams(temperature=0.0, max_tokens=120, ignore_eos=True)
    replies = [harness.add([n % 7] * 20, long, client=f"m{n}", tenant="guild") for n in range(12)]
    for _ in range(40):
        harness.step()
    other = harness.add([1] * 10, SamplingParams(temperature=0.0, max_tokens=1), tenant="other")
    harness.step()
    assert other.status is RequestStatus.FINISHED
    (preempted,) = (
        request for request in replies if request.status is RequestStatus.WAITING and request.output_token_ids
    )
    before = len(preempted.output_token_ids)
    harness.step()
    harness.step()
    assert len(preempted.output_token_ids) > before


def test_a_donation_ends_where_the_shared_prefix_ends() -> None:
    harness = Harness(max_num_seqs=4, max_prefill_tokens=32, num_pages=512)
    persona = [3] * 64
    loud = harness.add([*persona, *[4] * 128], client="loud")
    harness.step()
    quiet = harness.add([*persona, 5], client="quiet")
    harness.step()
    assert loud.num_computed_tokens == 64
    harness.step()
    assert quiet.output_token_ids


def test_rows_decode_in_every_step_of_a_long_prefill() -> None:
    harness = Harness(max_num_seqs=4, max_prefill_tokens=16)
    running = harness.add([1] * 8, SamplingParams(temperature=0.0, max_tokens=60))
    harness.steps_until_first_token(running)
    harness.add([2] * 240)
    for _ in range(15):
        before = len(running.output_token_ids)
        harness.step()
        assert len(running.output_token_ids) == before + 1
        assert sum(len(chunk.token_ids) for chunk in harness.steps[-1].plan.chunks) == 16


def test_a_chunk_is_shared_by_several_short_prompts() -> None:
    harness = Harness(max_num_seqs=4, max_prefill_tokens=16)
    requests = [harness.add([n] * 5, client=str(n)) for n in range(3)]
    harness.step()
    assert all(request.output_token_ids for request in requests)


def test_a_persona_shared_by_concurrent_requests_is_computed_once() -> None:
    harness = Harness(max_num_seqs=16, max_prefill_tokens=32, num_pages=512)
    persona = [3] * 96
    requests = [harness.add([*persona, n % 7, n // 7], client=str(n)) for n in range(16)]
    harness.run_until_done()
    assert harness.scheduler.totals.num_prefilled_tokens == 96 + 16 * 2
    assert sum(request.usage.cached_tokens for request in requests) == 15 * 96


def test_a_persona_is_not_shared_across_tenants() -> None:
    harness = Harness(max_num_seqs=16, max_prefill_tokens=32, num_pages=512)
    for n in range(4):
        harness.add([*[3] * 96, n], tenant=str(n))
    harness.run_until_done()
    assert harness.scheduler.totals.num_prefilled_tokens == 4 * 97


def test_a_shared_prefill_continues_when_its_owner_is_cancelled() -> None:
    harness = Harness(max_num_seqs=4, max_prefill_tokens=16)
    first, second = harness.add([3] * 100, client="a"), harness.add([3] * 100, client="b")
    for _ in range(3):
        harness.step()
    harness.scheduler.cancel_request(first)
    harness.run_until_done()
    assert second.output_token_ids == expected_reply([3] * 100, 8)
    assert harness.scheduler.totals.num_prefilled_tokens <= 100 + 16


def test_the_next_turn_of_a_dialog_hits_the_cached_reply() -> None:
    harness = Harness()
    first = harness.add([3] * 40, SamplingParams(temperature=0.0, max_tokens=40))
    harness.run_until_done()
    second = harness.add([*first.token_ids, 1, 2, 3])
    harness.run_until_done()
    assert second.usage.cached_tokens == 79  # the last token of the reply was never computed


def test_requests_preempted_for_lack_of_pages_still_finish() -> None:
    harness = Harness(max_num_seqs=4, num_pages=20, max_prefill_tokens=64, max_context=256)
    requests = [harness.add([n] * 60, SamplingParams(temperature=0.0, max_tokens=100), client=str(n)) for n in range(4)]
    harness.run_until_done()
    assert harness.scheduler.totals.preemptions > 0
    for n, request in enumerate(requests):
        assert request.output_token_ids == expected_reply([n] * 60, 100)


def test_cancel_frees_the_row_in_the_next_step() -> None:
    harness = Harness(max_num_seqs=1)
    first = harness.add([1] * 8, SamplingParams(temperature=0.0, max_tokens=200))
    second = harness.add([2] * 8)
    harness.step()
    harness.scheduler.cancel_request(first)
    harness.step()
    assert second.output_token_ids
    assert first.finish_reason == "cancelled"


def test_a_waiting_request_can_be_cancelled() -> None:
    harness = Harness(max_num_seqs=1)
    harness.add([1] * 8)
    second = harness.add([2] * 8)
    harness.step()
    harness.scheduler.cancel_request(second)
    assert harness.scheduler.num_waiting == 0
    harness.run_until_done()
    assert second.output_token_ids == []


def test_the_context_ends_a_reply() -> None:
    harness = Harness(max_context=32)
    request = harness.add([1] * 30, SamplingParams(temperature=0.0, max_tokens=None))
    harness.run_until_done()
    assert (len(request.output_token_ids), request.finish_reason) == (2, "length")


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_token_ends_a_reply_and_is_not_part_of_it(ignore_eos: bool) -> None:
    full_reply = expected_reply([1] * 8, 30)
    stop = full_reply[10]
    params = SamplingParams(temperature=0.0, max_tokens=30, stop_token_ids=frozenset({stop}), ignore_eos=ignore_eos)
    harness = Harness()
    request = harness.add([1] * 8, params)
    harness.run_until_done()
    assert request.output_token_ids == (full_reply if ignore_eos else full_reply[: full_reply.index(stop)])
    assert request.finish_reason == ("length" if ignore_eos else "stop")


def test_a_row_with_invalid_logits_fails_only_its_own_request() -> None:
    harness = Harness()
    bad, good = harness.add([1] * 40, client="a"), harness.add([2] * 40, client="b")
    while not bad.output_token_ids:
        harness.step()
    step = harness.scheduler.schedule()
    assert step is not None
    ids = harness.machine.execute(step.plan)
    harness.scheduler.update_from_output(step, ids | {bad.row: -1})
    assert bad.finish_reason == "error"
    harness.run_until_done()
    assert good.output_token_ids == expected_reply([2] * 40, 8)
    again = harness.add([1] * 40)
    harness.run_until_done()
    assert again.usage.cached_tokens == 0


def test_the_same_calls_give_the_same_plans() -> None:
    def plans() -> list[ScheduledStep]:
        harness = Harness(max_num_seqs=3, num_pages=24, max_prefill_tokens=16)
        for n in range(12):
            harness.add([n % 5] * (20 + 13 * n % 90), client=str(n % 4), tenant=str(n % 2))
        harness.run_until_done()
        return harness.steps

    assert [step.plan for step in plans()] == [step.plan for step in plans()]
