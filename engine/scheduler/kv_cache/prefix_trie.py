"""The prefix tries of all tenants, over the pages of the device and the slots of the host.

There are two sets of nodes, those in pages and those in slots. Each set contains the parents of its nodes. Evictions
take leaves of a set, so no node loses the way to its root. A node in neither set is not in the trie.

It counts idle nodes and keeps the queues from which evictions choose. It does not own pages or slots, and decides
nothing.
"""

from engine.scheduler.kv_cache.eviction import EvictionQueue
from engine.scheduler.kv_cache.page_table import PrefixNode


class PrefixTrie:
    """Every change of a node that is in a trie goes through its methods."""

    def __init__(self) -> None:
        self.roots: dict[str, PrefixNode] = {}  # by tenant; only roots with children
        self.clock = 0  # logical time of last use
        self.num_idle = 0  # nodes in pages that no request holds
        self._idle_from: dict[int, int] = {}  # how many of them by last use, in its order
        self.num_in_slots = 0
        # Pages that may be taken: with the content in a slot as well, and without.
        self.saved_pages = EvictionQueue(lambda node: node.is_evictable and node.in_slot)
        self.unsaved_pages = EvictionQueue(lambda node: node.is_evictable and not node.in_slot)
        # What may be written to a slot next; slots that may be taken, with the content in a page as well, and without.
        self.to_save = EvictionQueue(lambda node: node.is_idle and node.is_full and not node.in_slot)
        self.copies = EvictionQueue(
            lambda node: (
                node.in_slot and node.in_page and node.attached and node.is_computed and not node.num_children_in_slots
            ),
            newest_first=True,
        )
        self.only_in_slots = EvictionQueue(
            lambda node: node.attached and node.in_slot and not node.in_page and not node.num_children_in_slots,
        )
        # What may be written to a record next, and records that may be taken.
        self.to_store = EvictionQueue(_can_be_stored, newest_first=True)
        self.stored_leaves = EvictionQueue(
            lambda node: node.attached and node.record >= 0 and not node.num_children_stored
        )
        self.freed_records: list[int] = []  # of nodes that were detached, until StoredPages takes them
        self.used_records: set[int] = set()  # of nodes that were used, until StoredPages takes them
        self.queues = (
            self.saved_pages,
            self.unsaved_pages,
            self.to_save,
            self.copies,
            self.only_in_slots,
            self.to_store,
            self.stored_leaves,
        )
        self._has_slots = self._has_records = False

    def use_records(self) -> None:
        """From now on, nodes may get records."""
        self._has_records = True

    def use_slots(self) -> None:
        """From now on, nodes may get slots."""
        self._has_slots = True

    def last_use_of_oldest(self, num_pages: int) -> int:
        """The latest logical time of last use among the `num_pages` least recently used idle nodes; -1: there is none.

        More idle nodes than these may have that time.
        """
        latest, empty = -1, []
        for last_used, count in self._idle_from.items():
            if not count:
                empty.append(last_used)
                continue
            if num_pages <= 0:
                break
            num_pages -= count
            latest = last_used
        for last_used in empty:
            del self._idle_from[last_used]
        return latest

    def root(self, tenant: str) -> PrefixNode:
        """The root of a tenant's trie; a new one, which is kept once it has a child, if the tenant has none."""
        return self.roots.get(tenant) or PrefixNode(tenant, (), None)

    def attach(
        self, parent: PrefixNode, token_ids: tuple[int, ...], page_id: int, *, ref_count: int, is_full: bool = True
    ) -> PrefixNode:
        """A new node below `parent`, in a page; computed if no request holds it."""
        node = self._add_child(parent, token_ids)
        node.is_full = is_full
        node.ref_count, node.is_computed, node.last_used = ref_count, ref_count == 0, self.clock
        self.move_to_page(node, page_id)
        return node

    def attach_idle(
        self, parent: PrefixNode, token_ids: tuple[int, ...], page_id: int, host_slot: int, last_used: int
    ) -> PrefixNode:
        """A new node whose content is in a page, or else in a slot, and that was used at some time before.

        Call `sort_idle` when no more come.
        """
        node = self._add_child(parent, token_ids)
        node.is_computed, node.last_used = True, last_used
        if page_id >= 0:
            self.move_to_page(node, page_id)
        else:
            self.move_to_slot(node, host_slot)
        return node

    def sort_idle(self) -> None:
        """Count idle nodes in the order of their last use again."""
        self._idle_from = dict(sorted(self._idle_from.items()))

    def hold(self, node: PrefixNode) -> None:
        """One more request holds the node."""
        self._count(node, -1)
        node.ref_count += 1
        if node.record >= 0:
            self.used_records.add(node.record)
        if node.in_slot:
            self.enqueue(node)

    def let_go(self, node: PrefixNode) -> None:
        """One request less holds the node, which stays in the trie."""
        node.ref_count -= 1
        if not node.ref_count:
            if len(self._idle_from) > 2 * self.num_idle + 64:
                self._idle_from = {last_used: count for last_used, count in self._idle_from.items() if count}
            node.last_used = self.clock
            if node.record >= 0:
                self.used_records.add(node.record)
            self._count(node, 1)
            self.enqueue(node)

    def move_to_page(self, node: PrefixNode, page_id: int) -> None:
        """Its page is `page_id`; -1: none any more."""
        self._count(node, -1)
        node.move_to_page(page_id)
        self._count(node, 1)
        self.enqueue(node)
        if page_id < 0 and node.parent is not None:
            self.enqueue(node.parent)

    def move_to_slot(self, node: PrefixNode, host_slot: int) -> None:
        """Its slot is `host_slot`; -1: none any more."""
        self._count(node, -1)
        self.num_in_slots += (host_slot >= 0) - (node.host_slot >= 0)
        node.move_to_slot(host_slot)
        self._count(node, 1)
        self.enqueue(node)
        if host_slot < 0 and node.parent is not None:
            self.enqueue(node.parent)

    def move_to_record(self, node: PrefixNode, record: int) -> None:
        """Its record is `record`; -1: none any more."""
        node.move_to_record(record)
        self.enqueue(node)
        if record < 0 and node.parent is not None:
            self.enqueue(node.parent)

    def detach(self, top: PrefixNode) -> list[PrefixNode]:
        """Take a node and all below it out of the trie; returns them. They keep their pages and slots, not records."""
        parent, nodes = top.parent, [top, *top.descendants()]
        for node in nodes:
            self._count(node, -1)
        top.detach()
        for node in nodes:
            node.attached = False
            for queue in self.queues:
                queue.discard(node)
            if node.record >= 0:
                self.freed_records.append(node.record)
                node.record, node.num_children_stored = -1, 0
        if parent is not None:
            self.enqueue(parent)
            if parent.is_root and not parent.children:
                del self.roots[parent.tenant]
        return nodes

    def enqueue(self, node: PrefixNode) -> None:
        """Put a node that has changed into the queues that want it now."""
        if not node.attached:
            return
        in_page, in_slot, is_held = node.page_id >= 0, node.host_slot >= 0, node.ref_count > 0
        if in_page and not is_held and not node.num_children_in_pages and node.parent is not None:
            (self.saved_pages if in_slot else self.unsaved_pages).push(node)
        if self._has_records:
            if _can_be_stored(node):
                self.to_store.push(node)
            elif node.record >= 0 and not node.num_children_stored:
                self.stored_leaves.push(node)
        if not self._has_slots:
            return
        if in_slot and not node.num_children_in_slots:
            if not in_page:
                self.only_in_slots.push(node)
            elif node.is_computed:
                self.copies.push(node)
        elif in_page and not is_held and not in_slot and node.is_full:
            self.to_save.push(node)

    def _add_child(self, parent: PrefixNode, token_ids: tuple[int, ...]) -> PrefixNode:
        node = parent.children[token_ids] = PrefixNode(parent.tenant, token_ids, parent)
        if parent.is_root:
            self.roots[parent.tenant] = parent
        return node

    def _count(self, node: PrefixNode, sign: int) -> None:
        if node.is_idle:
            self.num_idle += sign
            self._idle_from[node.last_used] = self._idle_from.get(node.last_used, 0) + sign


def _can_be_stored(node: PrefixNode) -> bool:
    """Whether it is whole, at rest and in no record."""
    return (
        node.attached
        and node.ref_count == 0
        and node.record < 0
        and node.parent is not None
        and node.is_computed
        and node.is_full
        and (node.page_id >= 0 or node.host_slot >= 0)
    )
