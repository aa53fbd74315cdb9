"""Pages that a prompt has in common with others up to a token in their middle: a reply that is asked for again, a
message that was edited, a dialog that goes on after a short reply.

The common tokens are copied to a page of the request's own, by the plan that admits it, before its step. The page that
they come from is idle, so an earlier step has computed it. The very same plan may take it for something else: the
copies come first.

It knows pages and tokens. It decides neither what is admitted nor what is evicted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from engine.scheduler.kv_cache.page_pool import PagePool
from engine.scheduler.kv_cache.page_table import PageTable, PrefixNode
from engine.scheduler.kv_cache.prefix_trie import PrefixTrie

MAX_SIBLINGS: Final = 64  # looked at, newest first: a persona may have thousands of dialogs below it


@dataclass(frozen=True, slots=True)
class Source:
    """A page that begins with the `count` tokens that a prompt needs next."""

    page_id: int
    count: int


class PartialPages:
    """The duplicates that the next plan makes, and the nodes of pages that are not full."""

    def __init__(self, trie: PrefixTrie, pool: PagePool, page_size: int) -> None:
        self._trie, self._pool, self._page_size = trie, pool, page_size
        self._duplicates: dict[int, int] = {}  # page: from which page

    def source(self, parent: PrefixNode | None, token_ids: Sequence[int], index: int) -> Source | None:
        """The page below `parent` with most of the tokens of page `index`; None if no page has any.

        The last token never counts: the request computes it.
        """
        if parent is None:
            return None
        wanted = tuple(token_ids[index * self._page_size : min((index + 1) * self._page_size, len(token_ids) - 1)])
        best: Source | None = None
        for node in _siblings(parent):
            if node.is_idle and node.is_computed:
                count = _num_equal(node.token_ids, wanted)
                if count > (best.count if best else 0):
                    best = Source(node.page_id, count)
        return best

    def duplicate(self, source: Source, table: PageTable, index: int) -> None:
        """Copy the source to the table's page `index`, which the plan that is being made grants."""
        page_id = table.page_ids[index]
        if self._pool.is_to_be_overwritten(page_id):
            return
        self._duplicates[page_id] = source.page_id
        table.duplicated_end = index * self._page_size + source.count

    def plan_duplicates(self) -> tuple[tuple[int, int], ...]:
        """(from, to) for the copies that the plan makes before its step."""
        copies = tuple((source, page_id) for page_id, source in self._duplicates.items() if source != page_id)
        self._duplicates.clear()
        return copies

    def attach(self, parent: PrefixNode, token_ids: tuple[int, ...], page_id: int) -> bool:
        """Keep a page that is not full below `parent`, unless another page there begins with its tokens."""
        for node in _siblings(parent):
            if node.in_page and node.is_computed and node.token_ids[: len(token_ids)] == token_ids:
                return False
        if token_ids in parent.children:
            return False
        self.drop_beginnings(parent, token_ids)
        self._trie.attach(parent, token_ids, page_id, ref_count=0, is_full=False)
        return True

    def drop_beginnings(self, parent: PrefixNode, token_ids: tuple[int, ...]) -> None:
        """A page below `parent` gets these tokens next: those that only have the first of them are of no more use."""
        for node in list(_siblings(parent)):
            if not node.is_full and token_ids[: len(node.token_ids)] == node.token_ids:
                page_id = node.page_id
                self._trie.detach(node)
                self._trie.move_to_page(node, -1)
                self._pool.release(page_id)


def _siblings(parent: PrefixNode) -> Iterator[PrefixNode]:
    return islice(reversed(parent.children.values()), MAX_SIBLINGS)


def _num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for count, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return count
    return min(len(first), len(second))
