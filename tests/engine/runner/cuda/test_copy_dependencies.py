"""A step waits for the copies whose pages its rows read or write, and for no others."""

import random

from engine.runner.cuda.host_tier.copy_dependencies import CopyDependencies
from engine.scheduler.copy_budget import RESTORED_BYTES
from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.request import Request, SamplingParams
from engine.scheduler.scheduler import Scheduler
from engine.scheduler.step_plan import PrefillChunk, StepPlan
from tests.engine.scheduler.page_machine import VOCAB, PageMachine, expected_reply

PAGE_SIZE, MAX_CONTEXT = 4, 64


def compute(row: int) -> tuple[PrefillChunk, ...]:
    return (PrefillChunk(row, 0, (1,), True),)


def test_a_page_that_is_restored_later_than_it_was_granted() -> None:
    seen = CopyDependencies()
    grants = ((0, 0, 10), (0, 1, 11), (1, 0, 20))
    assert seen.batch_to_wait_for(StepPlan(0, page_grants=grants, copies=PageCopies(restores=((0, 10),)))) is None
    assert seen.batch_to_wait_for(StepPlan(1, copies=PageCopies(restores=((1, 11),)))) is None
    assert seen.batch_to_wait_for(StepPlan(2, chunks=compute(1))) is None  # it holds neither
    assert seen.batch_to_wait_for(StepPlan(3, chunks=compute(0))) == 2
    assert seen.batch_to_wait_for(StepPlan(4, decode_rows=(0,))) is None


def test_a_page_that_is_granted_while_it_is_saved() -> None:
    seen = CopyDependencies()
    assert seen.batch_to_wait_for(StepPlan(0, page_grants=((0, 0, 10),), chunks=compute(0))) is None
    assert seen.batch_to_wait_for(StepPlan(1, decode_rows=(0,), copies=PageCopies(saves=((10, 0),)))) is None
    assert seen.batch_to_wait_for(StepPlan(2, page_grants=((1, 0, 10),), freed_rows=(0,), chunks=compute(1))) == 1


def test_a_freed_row_waits_for_nothing_of_what_it_held() -> None:
    seen = CopyDependencies()
    assert seen.batch_to_wait_for(StepPlan(0, page_grants=((0, 0, 10),), chunks=compute(0))) is None
    plan = StepPlan(1, page_grants=((0, 0, 11), (1, 0, 10)), freed_rows=(0,), copies=PageCopies(restores=((0, 10),)))
    assert seen.batch_to_wait_for(plan) is None
    assert seen.batch_to_wait_for(StepPlan(2, chunks=compute(0))) is None
    assert seen.batch_to_wait_for(StepPlan(3, chunks=compute(1))) == 1


def test_a_dialog_that_takes_several_steps_to_restore() -> None:
    """One page a step, as beside another member's reply, with copies as late as a runner may make them."""
    scheduler = Scheduler(
        max_num_seqs=3, num_pages=18, max_prefill_tokens=64, max_context=MAX_CONTEXT, page_size=PAGE_SIZE,
        max_host_slots=60, page_bytes=RESTORED_BYTES,
    )  # fmt: skip
    scheduler.cache.host.grow(60)
    machine, chosen = PageMachine(3, 18, PAGE_SIZE, 60, late=True), random.Random(4)
    dialogs = [[chosen.randrange(VOCAB) for _ in range(33)] for _ in range(5)]

    def submit(number: int, length: int) -> Request:
        params = SamplingParams(temperature=0.0, max_tokens=length)
        request = Request(0, list(dialogs[number]), params, 0, str(number), "a")
        scheduler.add_request(request)
        return request

    def step() -> bool:
        planned = scheduler.schedule()
        if planned is not None:
            scheduler.update_from_output(planned, machine.execute(planned.plan))
        return planned is not None

    for number in range(5):
        submit(number, 1)
        while step():  # also until all is saved
            pass
    other = submit(4, 30)
    step()
    restored = scheduler.cache.host.num_restored_pages
    back = submit(0, 2)
    while step():
        pass
    assert scheduler.cache.host.num_restored_pages - restored >= 8
    assert back.output_token_ids == expected_reply(dialogs[0], 2)
    assert other.output_token_ids == expected_reply(dialogs[4], 30)
