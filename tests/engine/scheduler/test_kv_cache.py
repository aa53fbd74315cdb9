"""Pages are shared exactly, inside a tenant, computed once, and given up in the order in which they were left."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduler.kv_cache_manager import KVCacheManager, PageTable

PAGE = 4


def compute(cache: KVCacheManager, hold: PageTable, tokens: list[int]) -> int:
    """Prefill everything; how many tokens had to be computed."""
    fed = computed = 0
    while fed < len(tokens):
        fed, count = cache.next_uncomputed_span(hold, fed, len(tokens), 3)
        assert count > 0
        cache.mark_computed(hold, fed, fed + count)
        fed, computed = fed + count, computed + count
    return computed


def serve(cache: KVCacheManager, tenant: str, tokens: list[int]) -> int:
    hold = cache.allocate(tenant, tokens)
    assert hold is not None
    computed = compute(cache, hold, tokens)
    cache.free(hold, tokens)
    cache.check()
    return computed


def test_full_pages_are_reused_but_the_last_token_is_computed() -> None:
    cache = KVCacheManager(16, PAGE)
    assert serve(cache, "a", list(range(12))) == 12
    assert serve(cache, "a", list(range(12))) == 4  # its logits are needed, so its page is computed again
    assert serve(cache, "a", list(range(13))) == 1
    assert serve(cache, "a", [*range(8), 99, 10, 11, 12]) == 4


def test_fault_28_tenants_share_nothing() -> None:
    cache = KVCacheManager(16, PAGE)
    serve(cache, "a", list(range(12)))
    assert serve(cache, "b", list(range(12))) == 12


def test_a_page_with_the_same_tokens_behind_other_tokens_is_another_page() -> None:
    cache = KVCacheManager(16, PAGE)
    serve(cache, "a", [1, 1, 1, 1, 2, 2, 2, 2, 3])
    assert serve(cache, "a", [7, 7, 7, 7, 2, 2, 2, 2, 3]) == 9


def test_a_concurrent_request_waits_for_pages_that_another_computes() -> None:
    cache, tokens = KVCacheManager(16, PAGE), list(range(10))
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


def test_the_work_of_a_request_that_leaves_is_taken_over() -> None:
    cache, tokens = KVCacheManager(16, PAGE), list(range(10))
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


def test_the_longest_unused_leaf_goes_first() -> None:
    cache = KVCacheManager(6, PAGE)
    serve(cache, "a", [1] * 8)
    serve(cache, "a", [2] * 8)
    serve(cache, "a", [1] * 9)  # touched again; its third page is not full
    serve(cache, "b", [3] * 12)  # needs three of the six pages
    assert cache.num_evicted_pages == 1
    assert serve(cache, "a", [2] * 8 + [9]) == 5  # its second page was given up; two of others are now
    assert serve(cache, "b", [3] * 12 + [9]) == 1  # which were not those used last


def test_admission_leaves_what_was_asked_to_be_left() -> None:
    cache = KVCacheManager(4, PAGE)
    assert cache.allocate("a", [1] * 13, num_spare_pages=1) is None
    hold = cache.allocate("a", [1] * 12, num_spare_pages=1)
    assert hold is not None
    assert not cache.append_pages(hold, 2)
    assert cache.append_pages(hold, 1)
    assert cache.allocate("a", [1] * 4) is None
    cache.check()


def test_what_went_wrong_is_not_served_again() -> None:
    cache, tokens = KVCacheManager(16, PAGE), list(range(10))
    serve(cache, "a", tokens)
    hold, other = cache.allocate("a", tokens), cache.allocate("a", [*range(4), 9])
    assert hold is not None
    assert other is not None
    cache.invalidate(hold)
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
def test_hits_are_those_of_a_dictionary(prompts: list[tuple[str, list[int], list[int]]]) -> None:
    """In a pool that never evicts, exactly the full pages of earlier prompts of the tenant are found."""
    cache = KVCacheManager(1000, PAGE)
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for tenant, persona, text in prompts:
        tokens = persona + text
        hit = 0
        while (hit + 1) * PAGE < len(tokens) and (tenant, tuple(tokens[: (hit + 1) * PAGE])) in seen:
            hit += 1
        assert serve(cache, tenant, tokens) == len(tokens) - hit * PAGE
        seen |= {(tenant, tuple(tokens[: n * PAGE])) for n in range(1, len(tokens) // PAGE + 1)}


def test_the_check_notices_a_lost_page() -> None:
    cache = KVCacheManager(4, PAGE)
    hold = cache.allocate("a", [1] * 9)
    assert hold is not None
    cache.free(hold, [1] * 9)
    cache._free_pages.pop()
    with pytest.raises(AssertionError):
        cache.check()
