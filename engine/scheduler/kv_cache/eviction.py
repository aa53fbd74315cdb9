"""Nodes of the prefix trie by their recency, from which evictions choose."""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator

from engine.scheduler.kv_cache.page_table import PrefixNode


class EvictionQueue:
    """Candidates, the least recently used first, or with `newest_first` the most recently used.

    Nodes with the same last use come in the order of their pushes, or with `newest_first` in the reverse order. So a
    dialog is evicted from its end on, before another dialog is touched.

    A node may stop being a candidate, or be used again, while it is in the queue. `peek` removes such nodes when it
    meets them. No call scans all nodes: with 100,000 of them a scan would delay every reply by 0.1 s.
    """

    def __init__(self, is_candidate: Callable[[PrefixNode], bool], *, newest_first: bool = False) -> None:
        self._is_candidate, self._newest_first = is_candidate, newest_first
        self._sign = -1 if newest_first else 1
        self._key_of: dict[PrefixNode, int] = {}  # the recency with which it was pushed, negative with `newest_first`
        self._nodes_at: dict[int, OrderedDict[PrefixNode, None]] = {}  # by key; no value is empty
        self._keys: list[int] = []  # a heap of the keys of `_nodes_at`, and of some that were removed from it

    def __len__(self) -> int:
        return len(self._key_of)

    def __iter__(self) -> Iterator[PrefixNode]:
        """All nodes, candidates or not, in no particular order."""
        return iter(self._key_of)

    def push(self, node: PrefixNode) -> None:
        """Add a node that is a candidate, or move it to its current recency."""
        key = self._sign * node.recency
        if self._key_of.get(node) == key:
            if self._newest_first:
                self._nodes_at[key].move_to_end(node)
            return
        self.discard(node)
        self._key_of[node] = key
        nodes = self._nodes_at.get(key)
        if nodes is None:
            self._add_key(key)
            nodes = self._nodes_at[key] = OrderedDict()
        nodes[node] = None

    def discard(self, node: PrefixNode) -> None:
        """Remove the node, if it is there."""
        key = self._key_of.pop(node, None)
        if key is not None:
            del self._nodes_at[key][node]
            if not self._nodes_at[key]:
                del self._nodes_at[key]

    def peek(self) -> PrefixNode | None:
        """The first candidate, which stays where it is; None: there is no candidate."""
        while self._keys:
            nodes = self._nodes_at.get(self._keys[0])
            if nodes is None:
                heapq.heappop(self._keys)
                continue
            node = next(reversed(nodes) if self._newest_first else iter(nodes))
            if self._key_of[node] == self._sign * node.recency and self._is_candidate(node):
                return node
            self.discard(node)
        return None

    def lacks(self, node: PrefixNode) -> bool:
        """Whether the node is a candidate that `peek` would not find. For tests."""
        return self._is_candidate(node) and self._key_of.get(node) != self._sign * node.recency

    def _add_key(self, key: int) -> None:
        if len(self._keys) > 2 * len(self._nodes_at) + 64:  # few: one for each dialog, not for each node
            self._keys = list(self._nodes_at)
            heapq.heapify(self._keys)
        heapq.heappush(self._keys, key)
