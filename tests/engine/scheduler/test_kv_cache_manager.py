"""Pages are shared by exact prefix within a tenant, computed once, and evicted least recently used first."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduler.kv_cache.kv_cache_manager import KVCacheManager, PageTable
from engine.scheduler.kv_cache.partial_pages import MAX_SIBLINGS

PAGE_SIZE = 4


def prefill(cache: KVCacheManager, table: PageTable, tokens: list[int]) -> int:
    """Compute what is not cached; returns how many tokens that were."""
    position = num_computed = 0
    while position < len(tokens):
        position, count = cache.next_uncomputed_span(table, position, len(tokens), 3)
        assert count > 0
        cache.mark_computed(table, position, position + count)
        position, num_computed = position + count, num_computed + count
    return num_computed


def serve(cache: KVCacheManager, tenant: str, tokens: list[int]) -> int:
    """One request from start to end; returns how many of its tokens were computed."""
    table = cache.allocate(tenant, tokens)
    assert table is not None
    num_computed = prefill(cache, table, tokens)
    cache.free(table, tokens)
    cache.check()
    return num_computed


def test_full_pages_are_reused_but_the_last_token_is_computed() -> None:
    cache = KVCacheManager(16, PAGE_SIZE)
    assert serve(cache, "a", list(range(12))) == 12
    assert serve(cache, "a", list(range(12))) == 1  # its logits are needed
    assert serve(cache, "a", list(range(13))) == 1
    assert serve(cache, "a", [*range(8), 99, 10, 11, 12]) == 4


def test_a_page_with_the_first_tokens_of_another_one_is_duplicated() -> None:
    cache = KVCacheManager(16, PAGE_SIZE)
    serve(cache, "a", list(range(10)))  # two pages, and one with two tokens
    assert serve(cache, "b", list(range(10))) == 10
    assert cache.plan_copies(8, 8).duplicates == ()
    assert serve(cache, "a", [*range(6), 99]) == 1
    [(source, target)] = cache.plan_copies(8, 8).duplicates
    assert source != target
    assert serve(cache, "a", [*range(9), 99, 98]) == 2
    assert len(cache.plan_copies(8, 8).duplicates) == 1


def test_a_page_that_is_not_full_is_dropped_for_one_that_begins_with_its_tokens() -> None:
    cache = KVCacheManager(16, PAGE_SIZE)
    for end in (9, 10, 11, 12):
        serve(cache, "a", list(range(end)))
        assert cache.num_cached_pages == 3
    serve(cache, "a", list(range(9)))
    assert cache.num_cached_pages == 3
    serve(cache, "a", list(range(14)))
    assert cache.num_cached_pages == 4
    table = cache.allocate("a", list(range(20)))
    assert table is not None
    assert cache.num_available_pages == 16 - 5


def test_the_only_page_of_a_tenant_may_be_dropped_for_one_that_begins_with_its_tokens() -> None:
    cache = KVCacheManager(16, PAGE_SIZE)
    for end in (2, 3, 4, 7):
        serve(cache, "a", list(range(end)))
    assert serve(cache, "a", list(range(7))) == 1
    serve(cache, "b", [1, 2])
    assert serve(cache, "b", list(range(1, 9))) == 6
    assert serve(cache, "b", list(range(1, 9))) == 1


def test_a_page_that_is_being_computed_is_not_duplicated() -> None:
    cache, tokens = KVCacheManager(16, PAGE_SIZE), list(range(12))
    first, second = cache.allocate("a", tokens), cache.allocate("a", [*range(10), 99])
    assert first is not None
    assert second is not None
    assert prefill(cache, first, tokens) == 12
    assert prefill(cache, second, [*range(10), 99]) == 3
    assert cache.plan_copies(8, 8).duplicates == ()


def test_a_page_that_will_be_overwritten_gets_no_tokens_of_another_one() -> None:
    cache = KVCacheManager(3, PAGE_SIZE)
    serve(cache, "b", list(range(4)))
    serve(cache, "a", list(range(6)))
    assert cache.erase("b", []) == 1
    assert serve(cache, "a", [0, 1, 99]) == 3
    copies = cache.plan_copies(8, 8)
    assert (len(copies.overwritten_pages), copies.duplicates) == (1, ())
    assert serve(cache, "a", [0, 1, 98]) == 1


def test_of_many_pages_only_the_newest_are_looked_at() -> None:
    cache = KVCacheManager(400, PAGE_SIZE)
    for number in range(MAX_SIBLINGS + 1):
        serve(cache, "a", [number, 1, 2, 3])
    assert serve(cache, "a", [0, 1, 2, 99]) == 4
    assert serve(cache, "a", [2, 1, 2, 99]) == 1


def test_fault_28_tenants_share_nothing() -> None:
    cache = KVCacheManager(16, PAGE_SIZE)
    serve(cache, "a", list(range(12)))
    assert serve(cache, "b", list(range(12))) == 12


def test_a_page_with_equal_tokens_after_another_prefix_is_not_shared() -> None:
    cache = KVCacheManager(16, PAGE_SIZE)
    serve(cache, "a", [1, 1, 1, 1, 2, 2, 2, 2, 3])
    assert serve(cache, "a", [7, 7, 7, 7, 2, 2, 2, 2, 3]) == 9


def test_a_concurrent_request_waits_for_pages_that_another_one_computes() -> None:
    cache, tokens = KVCacheManager(16, PAGE_SIZE), list(range(10))
    first, second = cache.allocate("a", tokens), cache.allocate("a", tokens)
    assert first is not None
    assert second is not None
    assert first.page_ids[:2] == second.page_ids[:2]
    assert cache.next_uncomputed_span(first, 0, 10, 100) == (0, 10)
    assert cache.next_uncomputed_span(second, 0, 10, 100) == (0, 0)
    cache.mark_computed(first, 0, 5)
    assert cache.next_uncomputed_span(second, 0, 10, 100) == (4, 0)
    cache.mark_computed(first, 5, 10)
    assert cache.next_uncomputed_span(second, 4, 10, 100) == (8, 2)
    cache.free(first, tokens)
    cache.free(second, tokens)
    cache.check()


def test_the_next_request_takes_over_the_pages_of_an_owner_that_leaves() -> None:
    cache, tokens = KVCacheManager(16, PAGE_SIZE), list(range(10))
    first, second, third = (cache.allocate("a", tokens) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    cache.next_uncomputed_span(first, 0, 10, 5)
    cache.mark_computed(first, 0, 5)
    cache.free(first, tokens[:5])
    assert cache.next_uncomputed_span(second, 0, 10, 100) == (4, 6)
    assert cache.next_uncomputed_span(third, 0, 10, 100) == (4, 0)
    cache.free(third, [])
    cache.mark_computed(second, 4, 10)
    cache.free(second, tokens)
    cache.check()
    assert cache.num_available_pages == cache.num_pages


def test_the_least_recently_used_leaf_is_evicted_first() -> None:
    cache = KVCacheManager(7, PAGE_SIZE)
    serve(cache, "a", [1] * 8)
    serve(cache, "a", [2] * 8)
    serve(cache, "a", [1] * 9)  # used again; its third page is not full
    serve(cache, "b", [3] * 12)  # needs three of the seven pages
    assert cache.num_evicted_pages == 1
    assert serve(cache, "a", [2] * 8 + [9]) == 5  # its second page was evicted; now two pages of others are
    assert serve(cache, "b", [3] * 12 + [9]) == 1  # but not those that were used last


def test_allocation_leaves_the_spare_pages() -> None:
    cache = KVCacheManager(4, PAGE_SIZE)
    assert cache.allocate("a", [1] * 13, num_spare_pages=1) is None
    table = cache.allocate("a", [1] * 12, num_spare_pages=1)
    assert table is not None
    assert not cache.append_pages(table, 2)
    assert cache.append_pages(table, 1)
    assert cache.allocate("a", [1] * 4) is None
    cache.check([table])


def test_invalidated_pages_are_not_reused() -> None:
    cache, tokens = KVCacheManager(16, PAGE_SIZE), list(range(10))
    serve(cache, "a", tokens)
    table, other = cache.allocate("a", tokens), cache.allocate("a", [*range(4), 9])
    assert table is not None
    assert other is not None
    cache.invalidate(table)
    cache.free(other, [*range(4), 9])
    cache.check()
    assert cache.num_cached_pages == 0
    assert serve(cache, "a", tokens) == 10


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([[1] * 9, [2] * 6]), st.lists(st.integers(1, 2), max_size=9))
    )
)
def test_prefix_hits_equal_those_of_a_set(prompts: list[tuple[str, list[int], list[int]]]) -> None:
    """In a pool that never evicts, a prompt hits what it has in common with any earlier one of its tenant."""
    cache = KVCacheManager(1000, PAGE_SIZE)
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for tenant, persona, text in prompts:
        tokens = persona + text
        hit = 0
        while hit + 1 < len(tokens) and (tenant, tuple(tokens[: hit + 1])) in seen:
            hit += 1
        assert serve(cache, tenant, tokens) == len(tokens) - hit
        seen |= {(tenant, tuple(tokens[:count])) for count in range(1, len(tokens) + 1)}


def test_what_is_kept_does_not_grow_with_the_requests() -> None:
    cache = KVCacheManager(64, PAGE_SIZE)
    serve(cache, "old", list(range(12)))
    for _ in range(300):
        serve(cache, "a", list(range(12)))
        cache.plan_copies(8, 8)
    assert len(cache._trie._idle_from) < 100


def test_an_erasure_does_not_wait_for_the_copies_of_others() -> None:
    cache = KVCacheManager(24, PAGE_SIZE, max_host_slots=100)
    cache.host.grow(100)
    first, other = list(range(33)), list(range(100, 161))
    for tenant, tokens in (("a", first), ("b", list(range(9)))):
        serve(cache, tenant, tokens)
        while cache.plan_copies(8, 8):
            pass
    serve(cache, "c", [*other, *range(24)])  # pushes out the others
    assert cache.allocate("a", first) is not None
    cache.plan_copies(1, 0)
    assert cache.erase("b", []) > 0
    assert (cache.has_waiting_copies, cache.has_waiting_overwrites) == (True, True)
    copies = cache.plan_copies(1, 0)
    assert copies.overwritten_slots
    assert (cache.has_waiting_copies, cache.has_waiting_overwrites) == (True, False)


def test_check_notices_a_lost_page() -> None:
    cache = KVCacheManager(4, PAGE_SIZE)
    table = cache.allocate("a", [1] * 9)
    assert table is not None
    cache.free(table, [1] * 9)
    cache._pool.take(0, "a")
    with pytest.raises(AssertionError):
        cache.check()


def test_neighbouring_pages_are_saved_to_neighbouring_slots() -> None:
    """A runner copies neighbours at once. Once all slots are used, a dialog's come free from its last page on."""
    cache = KVCacheManager(36, PAGE_SIZE, max_host_slots=24, min_restored_pages=1)
    cache.host.grow(24)
    dialogs = [list(range(1000 * number, 1000 * number + 8 * PAGE_SIZE + 1)) for number in range(5)]
    for dialog in dialogs:  # the first three fill the slots
        serve(cache, "a", dialog)
        cache.begin_plan()
        cache.plan_copies(64, 64)
    saved: list[tuple[int, int]] = []
    for dialog in dialogs[:3]:  # they come back; the others are saved to their slots
        table = cache.allocate("a", dialog)
        assert table is not None
        cache.begin_plan()
        saves = cache.plan_copies(64, 64).saves
        for (page, slot), (next_page, next_slot) in pairwise(saves):
            assert (next_page, next_slot) == (page + 1, slot + 1)
        saved += saves
        cache.begin_plan()
        prefill(cache, table, dialog)
        cache.free(table, dialog)
        cache.check()
    assert len(saved) == 16


def test_the_slot_of_a_page_that_was_computed_again_can_be_taken_while_a_request_holds_it() -> None:
    cache = KVCacheManager(3, PAGE_SIZE, max_host_slots=2, min_restored_pages=9)
    cache.host.grow(2)
    serve(cache, "a", list(range(9)))
    cache.begin_plan()
    assert len(cache.plan_copies(8, 8).saves) == 2
    serve(cache, "a", list(range(100, 109)))  # takes the pages
    table = cache.allocate("a", list(range(9)))
    assert table is not None
    assert cache._trie.copies.peek() is None  # a slot is wanted before it is computed
    assert prefill(cache, table, list(range(9))) == 9
    assert cache._trie.copies.peek() is table.prefix_nodes[1]
    cache.check([table])


def test_a_page_that_was_not_restored_after_all_still_has_the_tenant_before() -> None:
    cache = KVCacheManager(3, PAGE_SIZE, max_host_slots=2, min_restored_pages=1)
    cache.host.grow(2)
    serve(cache, "a", list(range(9)))
    cache.begin_plan()
    cache.plan_copies(8, 8)
    serve(cache, "b", list(range(100, 109)))
    for node in list(cache._trie.roots["b"].children.values()):
        cache.drop(node)  # its keys and values stay in the pages until these are written
    table = cache.allocate("a", list(range(9)))
    assert table is not None
    assert len(table.prefix_nodes) == 2
    cache.plan_copies(0, 0)  # there is no time for the copies in this plan
    cache.free(table, [])
    cache.erase("b", [])
    assert cache.plan_copies(8, 8).overwritten_pages == (0, 1, 2)
