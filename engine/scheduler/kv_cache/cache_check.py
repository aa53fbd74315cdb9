"""What must be true of the prefix tries at any time, for tests. Slow."""

from collections import Counter
from collections.abc import Iterable

from engine.scheduler.kv_cache.page_table import PageTable, PrefixNode
from engine.scheduler.kv_cache.prefix_trie import PrefixTrie


def check_trie(
    trie: PrefixTrie, free_pages: list[int], tables: Iterable[PageTable], num_pages: int, page_size: int
) -> None:
    """Raise AssertionError unless every page is in one place and every count of the trie is right.

    `tables`: of all requests that hold pages.
    """
    outside = set()  # of the trie, and held
    for table in tables:
        outside.update(table.page_ids[len(table.prefix_nodes) :])
        outside.update(node.page_id for node in table.prefix_nodes if not node.attached)
    seen = [*free_pages, *outside]
    idle: Counter[int] = Counter()  # by last use
    for root in trie.roots.values():
        if not root.children:
            raise AssertionError("the root of an empty trie was kept")
        _check_counts(root)
        for node in root.descendants():
            _check_counts(node)
            _check_node(node, page_size)
            _check_queues(trie, node)
            seen += [node.page_id] * node.in_page
            idle[node.last_used] += node.is_idle
    if sorted(seen) != list(range(num_pages)) or free_pages != sorted(free_pages):
        raise AssertionError(f"{num_pages} pages, in {len(seen)} places: {seen}")
    counted = Counter(trie._idle_from)
    if +idle != +counted or trie.num_idle != idle.total() or list(trie._idle_from) != sorted(trie._idle_from):
        raise AssertionError(f"idle pages {idle}, counted as {trie.num_idle}: {counted}")
    if any(not node.attached for queue in trie.queues for node in queue):
        raise AssertionError("an eviction queue holds a node that is in no trie")


def _check_node(node: PrefixNode, page_size: int) -> None:
    children = node.children.values()
    held = node.ref_count > 0
    is_right = (
        node.attached
        and 0 < len(node.token_ids) <= page_size
        and node.is_full == (len(node.token_ids) == page_size)
        and (node.is_full or not (children or held or node.in_slot or node.record >= 0))
        and node.ref_count >= max((child.ref_count for child in children), default=0)
        and (node.in_page if held else node.is_computed and (node.in_page or node.in_slot))
        and (node.in_page or not node.num_children_in_pages)
        and (node.in_slot or not node.num_children_in_slots)
    )
    if not is_right:
        raise AssertionError(
            f"page {node.page_id}, slot {node.host_slot}: {node.ref_count} references, {node.is_computed=}, "
            f"children in pages: {node.num_children_in_pages}, in slots: {node.num_children_in_slots}"
        )


def _check_queues(trie: PrefixTrie, node: PrefixNode) -> None:
    """No queue lacks a candidate. Nodes in use may be missing from `stored_leaves`: their records are not taken."""
    queues = [trie.saved_pages, trie.unsaved_pages, trie.copies, trie.only_in_slots]
    queues += [trie.to_save] * trie._has_slots + [trie.to_store] * trie._has_records
    queues += [trie.stored_leaves] * (not node.ref_count)
    for number, queue in enumerate(queues):
        if queue.lacks(node):
            raise AssertionError(f"page {node.page_id}, slot {node.host_slot}: a candidate, but not in queue {number}")


def _check_counts(node: PrefixNode) -> None:
    children = node.children.values()
    counted = (node.num_children_in_pages, node.num_children_in_slots)
    if counted != (sum(child.in_page for child in children), sum(child.in_slot for child in children)):
        raise AssertionError(f"page {node.page_id} has {len(children)} children, counted as {counted}")
