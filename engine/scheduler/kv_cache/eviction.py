"""Nodes of the prefix trie by their recency, from which evictions choose."""

import heapq
from collections.abc import Callable

from engine.scheduler.kv_cache.page_table import PrefixNode


class EvictionQueue:
    """A heap of candidates by time of last use, the one that was used longest ago first, or with `newest_first` last.

    Of several from the same time, the one that was pushed first comes first, or with `newest_first` last: so what is
    taken from a dialog is taken from its end on, before another dialog is touched.

    A node may stop to be a candidate, or be used again, while it is in the heap. Such outdated entries are skipped by
    `peek`, and removed by `push` when the heap has more than `max_entries`.
    """

    def __init__(
        self, max_entries: int, is_candidate: Callable[[PrefixNode], bool], *, newest_first: bool = False
    ) -> None:
        self.max_entries, self._is_candidate = max_entries, is_candidate
        self._sign = -1 if newest_first else 1
        self._heap: list[tuple[int, int, PrefixNode]] = []  # recency, serial number, node
        self._serial = 0

    def push(self, node: PrefixNode) -> None:
        """Add a node that is a candidate."""
        if len(self._heap) > self.max_entries:
            self._compact()
        self._serial += self._sign
        heapq.heappush(self._heap, (self._sign * node.recency, self._serial, node))

    def peek(self) -> PrefixNode | None:
        """The first candidate, which stays where it is; None: there is no candidate."""
        while self._heap:
            if self._is_current(self._heap[0]):
                return self._heap[0][2]
            heapq.heappop(self._heap)
        return None

    def _is_current(self, entry: tuple[int, int, PrefixNode]) -> bool:
        return self._is_candidate(entry[2]) and entry[0] == self._sign * entry[2].recency

    def _compact(self) -> None:
        current = {entry[2]: entry for entry in self._heap if self._is_current(entry)}  # one entry for each node
        self._heap = list(current.values())
        heapq.heapify(self._heap)
