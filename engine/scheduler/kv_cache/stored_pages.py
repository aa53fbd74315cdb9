"""Which pages are in records of a file that outlives the engine, and which are written there next.

Records hold copies: what leaves the trie leaves its record too. What is in records contains with a node its parent, as
pages and slots do, and records are taken from the leaf that was used longest ago. What was used last is written first.

It decides, and knows neither files nor time.
"""

from dataclasses import dataclass

from engine.scheduler.kv_cache.free_list import FreeSlots
from engine.scheduler.kv_cache.host_tier import HostTier
from engine.scheduler.kv_cache.page_pool import PagePool
from engine.scheduler.kv_cache.page_table import PrefixNode
from engine.scheduler.kv_cache.prefix_trie import PrefixTrie


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A page that is to be copied to a record now, from a page of the device or else from a slot of the host."""

    record: int
    parent_record: int
    page_id: int
    slot: int
    node: PrefixNode


class StoredPages:
    """The records, by number. Without `start` there are none."""

    def __init__(self, trie: PrefixTrie, pool: PagePool, host: HostTier) -> None:
        self._trie, self._pool, self._host = trie, pool, host
        self._expired = -1  # what was used last at this time or before is not stored
        self._free = FreeSlots()
        self._dropped: dict[int, None] = {}  # free records that are still to be overwritten
        self._claimed: set[int] = set()  # written by an engine before, and not restored yet
        self._num_records = 0
        self._has_new = False

    def start(self, num_records: int) -> None:
        """There are records, all of them free. Before anything is cached."""
        self._num_records = num_records
        self._free.grow(num_records)
        if num_records:
            self._trie.use_records()

    def claim(self, taken: set[int]) -> None:
        """These records were written before: they are restored, or released. Once, after `start`."""
        free = [self._free.take() for _ in range(len(self._free))]
        for record in reversed(free):
            if record not in taken:
                self._free.release(record)
        self._claimed = set(taken)

    @property
    def clock(self) -> int:
        """The logical time now."""
        return self._trie.clock

    @property
    def has_changes(self) -> bool:
        """Whether records were written, dropped or used since `take_dropped`."""
        self._collect()
        return bool(self._has_new or self._dropped or self._trie.used_records)

    @property
    def has_records(self) -> bool:
        """Whether any record is taken."""
        return len(self._free) < self._num_records

    def advance_clock(self, clock: int) -> None:
        """Times before `clock` are in the past. Before anything is cached."""
        self._trie.clock = max(self._trie.clock, clock)

    def plan(self, limit: int) -> list[NewRecord]:
        """The pages that are stored next, at most `limit`; each of them counts as stored from now on."""
        self._collect()
        planned: list[NewRecord] = []
        while len(planned) < limit and (node := self._trie.to_store.peek()) is not None:
            for each in _unstored_path(node):
                is_whole = each.is_computed or each.in_slot
                if len(planned) >= limit or not is_whole or not self._has_room(each):
                    return planned
                parent = each.parent
                record = self._take()
                page_id = each.page_id if each.is_computed else -1
                parent_record = parent.record if parent is not None else -1
                planned.append(NewRecord(record, parent_record, page_id, -1 if page_id >= 0 else each.host_slot, each))
                self._trie.move_to_record(each, record)
                self._has_new = True
        return planned

    def adopt(
        self, tenant: str, parent: PrefixNode | None, token_ids: tuple[int, ...], record: int
    ) -> PrefixNode | None:
        """The node of a page that was computed again before its record was restored; None: there is none.

        The node takes over the record unless it already has another one. `parent`: as in `restore`.
        """
        node = (parent or self._trie.root(tenant)).children.get(token_ids)
        if node is not None and node.record < 0:
            self._trie.move_to_record(node, record)
            self._trie.used_records.add(record)
            self._claimed.discard(record)
        return node

    def restore(
        self, tenant: str, parent: PrefixNode | None, token_ids: tuple[int, ...], record: int, last_used: int
    ) -> PrefixNode | None:
        """A node for a page that is copied from this record now: to a free slot, or else to a free page.

        `parent`: the node of the page before it, which must have the record that this page's entry names; None: this is
        the first page. Call `adopt` first, and `finish_restoring` after the last page. Returns None if there is no room
        now.
        """
        parent = parent or self._trie.root(tenant)
        slot = page_id = -1
        if parent.is_root or parent.in_slot:
            slot = self._host.take_for(tenant)
        if slot < 0 and len(self._pool) and (parent.is_root or parent.in_page):
            page_id = self._pool.take(parent.page_id + 1, tenant)  # its content stays another's until it is read
        if page_id < 0 and slot < 0:
            return None
        node = self._trie.attach_idle(parent, token_ids, page_id, slot, last_used)
        self._trie.move_to_record(node, record)
        self._claimed.discard(record)
        return node

    def finish_restoring(self) -> None:
        """Keep what was restored in its place among the idle pages."""
        self._trie.sort_idle()

    def release(self, record: int) -> None:
        """A claimed record will not be restored."""
        self._claimed.discard(record)
        self._drop(record)

    def expire(self, clock: int) -> None:
        """Drop the records of what was used last at this time, or before."""
        self._expired = max(self._expired, clock)
        while (node := self._trie.stored_leaves.peek()) is not None and node.recency <= clock:
            self._drop_record_of(node)

    def take_dropped(self) -> tuple[int, ...]:
        """The free records that the next commit overwrites."""
        self._collect()
        dropped, self._dropped, self._has_new = tuple(self._dropped), {}, False
        return dropped

    def take_used(self) -> set[int]:
        """The records of what was used since the last call."""
        used, self._trie.used_records = self._trie.used_records, set()
        return used

    def check(self) -> None:
        """Raise AssertionError unless every record is in exactly one place. Slow."""
        self._collect()
        nodes = [node for root in self._trie.roots.values() for node in root.descendants()]
        used = [node.record for node in nodes if node.record >= 0]
        places = [*self._free, *used, *self._claimed]
        if sorted(places) != list(range(self._num_records)) or not set(self._dropped) <= set(self._free):
            raise AssertionError(f"{self._num_records} records, in {len(places)} places: {sorted(places)}")
        for node in nodes:
            if node.num_children_stored != sum(child.record >= 0 for child in node.children.values()):
                raise AssertionError(f"record {node.record}: {node.num_children_stored=}")
            if node.num_children_stored and node.record < 0:
                raise AssertionError("a page is stored without the page before it")

    def _has_room(self, node: PrefixNode) -> bool:
        """Whether there is a record for the node, or one that is worth less."""
        if node.recency <= self._expired:
            return False
        if self._free or self._trie.freed_records:
            return True
        oldest = self._trie.stored_leaves.peek()
        return oldest is not None and oldest.recency < node.recency

    def _take(self) -> int:
        if not self._free:
            oldest = self._trie.stored_leaves.peek()
            if oldest is None:
                raise IndexError("no record is left")
            self._drop_record_of(oldest)
        record = self._free.take()
        self._dropped.pop(record, None)  # it will be written again
        return record

    def _drop_record_of(self, node: PrefixNode) -> None:
        record = node.record
        self._trie.move_to_record(node, -1)
        self._drop(record)

    def _collect(self) -> None:
        """Records of nodes that have left the trie are free."""
        for record in self._trie.freed_records:
            self._drop(record)
        self._trie.freed_records.clear()

    def _drop(self, record: int) -> None:
        self._free.release(record)
        self._dropped[record] = None
        self._trie.used_records.discard(record)


def _unstored_path(node: PrefixNode) -> list[PrefixNode]:
    """The node and its ancestors that are in no record, from the top."""
    path = [node]
    while (parent := path[-1].parent) is not None and not parent.is_root and parent.record < 0:
        path.append(parent)
    return path[::-1]
