"""The host tier: slots of host memory that keep the content of pages which the device needs for something else.

- Saving: an idle page is copied to a slot in one of the next steps, the one used longest ago first, its ancestors
  before it. It stays in its page as well, until that page is taken.
- Restoring: a request that hits a node which is only in a slot gets a page for it. The plan that admits the request, or
  one soon after, copies the slot to the page, and from the plan after that one on the page counts as computed.
- When no slot is free, only those pages are saved that will be taken next. Then the slot comes from a node that is in a
  page as well, which loses nothing: from one that is in use, or the newest. Or else it comes from the node that was
  used longest ago.

It decides which copies the next plan makes, and knows neither requests nor a device.
"""

from collections.abc import Iterable
from itertools import islice

from engine.scheduler.kv_cache.free_list import FreeSlots
from engine.scheduler.kv_cache.page_table import RESTORING, PrefixNode
from engine.scheduler.kv_cache.prefix_trie import PrefixTrie
from engine.scheduler.kv_cache.residues import Residues


class HostTier:
    """The slots, by number, and the copies that are still to be planned."""

    def __init__(self, trie: PrefixTrie, max_slots: int) -> None:
        """With `max_slots` 0 there is no host tier. Slots exist once `grow` has said so."""
        self._trie, self.max_slots, self.num_slots = trie, max_slots, 0
        self._free = FreeSlots()
        self._residues = Residues()
        self._to_restore: dict[PrefixNode, None] = {}  # in the order in which they were asked for
        self._restored: dict[PrefixNode, None] = {}  # by the last plan
        self._to_overwrite: list[int] = []  # slots that are not free before they are overwritten
        self.num_saved_pages = self.num_restored_pages = self.num_evicted_slots = 0
        if max_slots:
            trie.use_slots()

    @property
    def is_waiting(self) -> bool:
        """Whether copies should be planned even if no request computes anything."""
        return bool(self._to_restore or self._to_overwrite)

    @property
    def has_waiting_overwrites(self) -> bool:
        """Whether slots are still to be overwritten by a plan."""
        return bool(self._to_overwrite)

    @property
    def has_work(self) -> bool:
        """Whether copies could be planned while nothing else runs: there is something to save, and room for it."""
        return self.is_waiting or (bool(self._free) and self._trie.to_save.peek() is not None)

    @property
    def waits_for_slots(self) -> bool:
        """Whether there is something to save, and room for it once more slots exist."""
        return self.num_slots < self.max_slots and not self._free and self._trie.to_save.peek() is not None

    @property
    def num_free_slots(self) -> int:
        """Slots that hold nothing."""
        return len(self._free)

    @property
    def restored(self) -> Iterable[PrefixNode]:
        """What the last plan restored."""
        return self._restored

    def grow(self, num_slots: int) -> None:
        """`num_slots` slots can be used from now on, at most `max_slots`. They never become fewer."""
        self.num_slots = max(self.num_slots, min(num_slots, self.max_slots))
        self._free.grow(self.num_slots)

    def begin_plan(self) -> None:
        """What the last plan restored is in its page when the steps of the next one run."""
        for node in self._restored:
            node.is_computed, node.owner = True, None
            self._trie.enqueue(node)
        self._restored.clear()

    def restore(self, node: PrefixNode) -> None:
        """Ask for the content of a node that has just got a page."""
        node.is_computed, node.owner = False, RESTORING
        self._to_restore[node] = None

    def give_up_restoring(self, node: PrefixNode) -> None:
        """The node's page is taken away again before anyone could use it."""
        self._to_restore.pop(node, None)
        self._restored.pop(node, None)
        node.is_computed, node.owner = True, None  # in its slot

    def plan_overwrites(self, limit: int) -> tuple[int, ...]:
        """Slots that the next plan fills with zeros. They are free afterwards."""
        slots, self._to_overwrite = self._to_overwrite[:limit], self._to_overwrite[limit:]
        for slot in slots:
            self._free.release(slot)
        return tuple(slots)

    def plan_restores(self, limit: int) -> tuple[tuple[int, int], ...]:
        """(slot, page) for the copies to pages that the next plan makes."""
        nodes = list(islice(self._to_restore, limit))
        copies = [(node.host_slot, node.page_id) for node in nodes]
        for node in nodes:
            del self._to_restore[node]
            self._restored[node] = None
            if not node.attached:
                self.release(node)
        self.num_restored_pages += len(nodes)
        return tuple(copies)

    def plan_saves(self, limit: int, num_next_pages: int) -> tuple[tuple[int, int], ...]:
        """(page, slot) for the copies to slots that the next plan makes.

        When no slot is free, only the `num_next_pages` least recently used idle pages are saved.
        """
        saved: dict[PrefixNode, None] = {}
        soon = self._trie.last_use_of_oldest(num_next_pages)
        while (node := self._trie.to_save.peek()) is not None:
            for each in _unsaved_path(node):
                has_room = bool(self._free) or node.last_used <= soon
                if len(saved) >= limit or not has_room or not self._save(each):
                    return self._exchange_slots(saved)
                saved[each] = None
        return self._exchange_slots(saved)

    def can_save(self, node: PrefixNode) -> bool:
        """Whether there is a slot for a page of the device, or one that is worth less."""
        return bool(self._free) or self._victim(node) is not None

    def take_for(self, tenant: str) -> int:
        """A free slot for a tenant's page, which may turn out to be unreadable; -1: there is none."""
        if not self._free:
            return -1
        slot = self._free.take()
        self._residues.write(slot, tenant)
        return slot

    def release(self, node: PrefixNode) -> None:
        """Free the node's slot; the node may have none, or be out of the trie."""
        slot = node.host_slot
        if slot < 0 or node in self._to_restore:  # the copy to the page comes first
            return
        self._trie.move_to_slot(node, -1)
        if self._residues.is_overwritten_on_release(slot):
            self._to_overwrite.append(slot)
        else:
            self._free.release(slot)

    def erase(self, tenant: str) -> None:
        """What was the tenant's is overwritten: free slots by the next plans, others when they are released."""
        slots = self._residues.of(tenant)
        self._residues.overwrite_on_release(slot for slot in slots if slot not in self._free)
        for slot in slots:
            if slot in self._free:
                self._free.remove(slot)
                self._residues.overwrite(slot)
                self._to_overwrite.append(slot)

    def overwrite_on_release(self, nodes: Iterable[PrefixNode]) -> None:
        """Their slots must be overwritten when they are released."""
        self._residues.overwrite_on_release(node.host_slot for node in nodes if node.in_slot)

    def check(self) -> None:
        """Raise AssertionError unless every slot is in exactly one place. Slow."""
        used = [node.host_slot for root in self._trie.roots.values() for node in root.descendants() if node.in_slot]
        used += [node.host_slot for node in self._to_restore if not node.attached]
        places = [*self._free, *self._to_overwrite, *used]
        if sorted(places) != list(range(self.num_slots)):
            raise AssertionError(f"{self.num_slots} slots, in {len(places)} places: {sorted(places)}")
        for node in self._to_restore:
            if node.owner is not RESTORING or node.is_computed or not (node.in_page and node.in_slot):
                raise AssertionError(f"page {node.page_id} cannot be restored from slot {node.host_slot}")

    def _save(self, node: PrefixNode) -> bool:
        """Give the node a slot; False: no slot can be taken now."""
        if not self._free:
            victim = self._victim(node)
            if victim is None:
                return False
            if victim.in_page:
                self.release(victim)
            else:
                self._trie.detach(victim)
                self.release(victim)
                self.num_evicted_slots += 1
            if not self._free:  # the slot is to be overwritten first
                return False
        slot = self._free.take()
        self._residues.fill(slot, node.tenant)
        self._trie.move_to_slot(node, slot)
        return True

    def _exchange_slots(self, saved: Iterable[PrefixNode]) -> tuple[tuple[int, int], ...]:
        """Give the lowest of the nodes' slots to the lowest page, and so on; returns (page, slot), by page.

        A runner makes one copy of neighbouring pages in neighbouring slots. `saved`: the nodes that got a slot in this
        plan; one may have lost it again to another, and is not copied.
        """
        nodes = sorted((node for node in saved if node.in_slot), key=lambda node: node.page_id)
        slots = sorted(node.host_slot for node in nodes)
        for node, slot in zip(nodes, slots, strict=True):
            node.move_to_slot(slot)
            self._residues.fill(slot, node.tenant)
        self.num_saved_pages += len(nodes)
        return tuple((node.page_id, node.host_slot) for node in nodes)

    def _victim(self, node: PrefixNode) -> PrefixNode | None:
        """The node whose slot `node` may take."""
        copy = self._trie.copies.peek()
        if copy is not None and copy.recency > node.recency and copy is not node.parent:
            return copy
        oldest = self._trie.only_in_slots.peek()
        return oldest if oldest is not None and oldest.recency < node.recency else None


def _unsaved_path(node: PrefixNode) -> list[PrefixNode]:
    """The node and its ancestors that are in no slot, from the top."""
    path = [node]
    while (parent := path[-1].parent) is not None and not parent.is_root and not parent.in_slot:
        path.append(parent)
    return path[::-1]
