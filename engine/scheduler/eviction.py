"""The order in which idle pages are evicted: the leaf of the prefix trie that was used longest ago comes first."""

import heapq

from engine.scheduler.page_table import PrefixNode


class EvictionQueue:
    """A heap of evictable nodes by time of last use.

    A node may become non-evictable, or be used again, while it is in the heap. Such outdated entries are skipped by
    `pop` and removed by `push` when the heap has more than `max_entries`.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._heap: list[tuple[int, int, PrefixNode]] = []  # last use, serial number, node
        self._serial = 0

    def push(self, node: PrefixNode) -> None:
        """Add a node if it is evictable."""
        if not node.is_evictable:
            return
        if len(self._heap) > self._max_entries:
            self._heap = [entry for entry in self._heap if entry[2].is_evictable and entry[0] == entry[2].last_used]
            heapq.heapify(self._heap)
        self._serial += 1
        heapq.heappush(self._heap, (node.last_used, self._serial, node))

    def pop(self) -> PrefixNode:
        """The evictable node that was used longest ago. Raises IndexError if there is none."""
        while True:
            last_used, _, node = heapq.heappop(self._heap)
            if node.is_evictable and node.last_used == last_used:
                return node
