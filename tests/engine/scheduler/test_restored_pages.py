"""Pages come back from files while members write: nothing is offered after a wrong text, overwritten, or lost."""

import pytest

from engine.core.kv_files import cache_files
from engine.scheduler.request import Request
from tests.engine.scheduler.page_machine import PageMachine
from tests.engine.scheduler.test_scheduler_machine import SchedulerMachine

FIRST, SECOND, THIRD, OTHER = [1] * 4, [2] * 4, [3] * 4, [5] * 4  # the tokens of a page each


class Engine(SchedulerMachine):
    """An engine that is called step by step."""

    def __init__(self, *, num_slots: int, num_records: int, max_prefill_tokens: int = 12) -> None:
        super().__init__()
        self.start(
            max_num_seqs=4, num_extra_pages=2, max_prefill_tokens=max_prefill_tokens, overlap=False, page_lookahead=1,
            num_slots=num_slots, pages_per_step=5, min_restored_pages=1, late=False, num_records=num_records,
            max_draft_tokens=0, wrong_every=2, apart=False, by_model=False,
        )  # fmt: skip

    def begin(self, prompt: list[int], tenant: str = "a") -> Request:
        return self._submit(tenant, "x", prompt, 1, frozenset(), 0)

    def serve(self, prompt: list[int], tenant: str = "a") -> Request:
        request = self.begin(prompt, tenant)
        self.finish()
        return request

    def stop(self) -> None:
        self.files.close()
        self.store.reopen(set())
        self._start_engine()


def test_a_page_that_waits_is_dropped_when_the_record_of_the_page_before_it_goes_to_another() -> None:
    engine = Engine(num_slots=2, num_records=2)
    engine.serve([*FIRST, *SECOND, 0])
    engine.stop()  # only the first page comes back: one slot is ready
    engine.serve([*OTHER, 0])
    engine.stop()  # stores OTHER in the record of FIRST, after which SECOND was written
    engine.more_host_memory()
    engine.write_files(times=3, commits=False)
    assert engine.serve([*OTHER, *SECOND, 0]).usage.cached_tokens == 4


def test_a_page_that_was_computed_again_takes_over_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(num_slots=8, num_records=8)
    engine.serve([*FIRST, *SECOND, *THIRD, 0])
    monkeypatch.setattr(cache_files, "RESTORE_SECONDS", 0.0)
    engine.stop()
    assert engine.serve([*FIRST, *SECOND, 0]).usage.cached_tokens == 0  # nothing has come back yet
    stored = set(engine.store.contents)
    engine.write_files(times=3, commits=True)
    assert stored <= set(engine.store.contents)  # the first two were not written again, to other records
    assert engine.serve([*FIRST, *SECOND, *THIRD, 0]).usage.cached_tokens == 12  # the third one came back below them


def test_a_page_that_comes_back_is_not_overwritten_as_a_free_page(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(num_slots=1, num_records=8)
    engine.serve([*FIRST, *SECOND, *THIRD, 0])
    monkeypatch.setattr(cache_files, "RESTORE_SECONDS", 0.0)
    engine.stop()
    request = engine.begin([*OTHER, *OTHER, 0], "erased")
    engine._step()
    engine.scheduler.erase("erased")
    while request.finish_reason is None:
        engine._step()
    engine.write_files(times=3, commits=False)  # its pages are free, and the next plan overwrites them
    engine.finish()
    engine.write_files(times=3, commits=False)
    assert engine.serve([*FIRST, *SECOND, *THIRD, 0]).usage.cached_tokens == 12


def test_a_page_below_one_that_is_not_computed_after_all_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(num_slots=2, num_records=8, max_prefill_tokens=4)
    for last in (THIRD, OTHER):
        engine.serve([*FIRST, *SECOND, *last, 0])
    monkeypatch.setattr(cache_files, "RESTORE_SECONDS", 0.0)
    engine.stop()
    request = engine.begin([*FIRST, *SECOND, *THIRD, 0])
    engine._step()  # computes the first page
    engine.write_files(times=3, commits=False)
    engine.scheduler.cancel_request(request)
    engine.finish()
    engine.write_files(times=3, commits=False)
    engine.finish()


@pytest.mark.parametrize("num_slots", [1, 8])
def test_what_was_to_be_replaced_by_a_page_that_cannot_be_read_is_still_erased(
    monkeypatch: pytest.MonkeyPatch, num_slots: int
) -> None:
    engine = Engine(num_slots=num_slots, num_records=8)
    engine.serve([*FIRST, *SECOND, *THIRD, 0])
    monkeypatch.setattr(cache_files, "RESTORE_SECONDS", 0.0)
    engine.stop()
    engine.store.contents.clear()
    engine.serve([*OTHER, *OTHER, 0], "erased")
    cache = engine.scheduler.cache
    for node in list(cache._trie.roots["erased"].children.values()):
        cache.drop(node)  # its pages and slots are free, with what is in them
    engine.write_files(times=3, commits=False)
    assert not engine.files._restore
    engine.erase("erased")
    engine.finish()
    assert isinstance(engine.machine, PageMachine)
    assert not [memory for memory in (*engine.machine._pages, *engine.machine._slots) if OTHER[0] in memory]
