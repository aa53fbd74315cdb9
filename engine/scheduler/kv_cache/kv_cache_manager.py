"""The pool of KV pages, and the prefix trie that lets requests share them. Plain Python: no torch, no queue.

A node of the trie is one full page, keyed by the tuple of the page's token ids. A prefix hit is thus an exact match,
never a hash that might collide. Every tenant has a trie of its own, so that a tenant cannot tell from response times
what another tenant's prompts contain.

- A page that no request holds is idle: it stays in the trie until a request needs the memory. The leaf that was used
  longest ago is evicted first, and first of all one whose content is in a slot of the host (`host_tier.py`) as well.
- The pages of an admitted prompt enter the trie before they are computed, marked with their owner, the request that
  will compute them. Another request with the same prefix takes the same pages and waits until they are computed. If the
  owner is freed first, the next request that needs such a page becomes its owner.
- The last token of a prompt is always computed by the request itself, which needs the logits.
- A prompt that ends or departs within a page of the trie gets a page of its own, and the tokens that both have in
  common are copied to it (`partial_pages.py`).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from engine.scheduler.kv_cache.cache_check import check_trie
from engine.scheduler.kv_cache.host_tier import HostTier
from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.kv_cache.page_pool import PagePool
from engine.scheduler.kv_cache.page_table import PageTable, PrefixNode
from engine.scheduler.kv_cache.partial_pages import PartialPages
from engine.scheduler.kv_cache.prefix_trie import PrefixTrie
from engine.scheduler.kv_cache.stored_pages import StoredPages

MIN_RESTORED_PAGES: Final = 4  # fewer are computed in less time than a request waits for their copies
READY_SHARE: Final = 8  # 1 / READY_SHARE of the pages should be free, or next to be evicted and in a slot as well
MAX_OVERWRITTEN_SLOTS: Final = 512  # in one plan


class KVCacheManager:
    """Every page is free, idle in a trie, or held by requests (see `num_held_pages`)."""

    def __init__(
        self,
        num_pages: int,
        page_size: int = 16,
        *,
        max_host_slots: int = 0,
        min_restored_pages: int = MIN_RESTORED_PAGES,
    ) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self.num_evicted_pages = 0  # whose content was in no slot
        self._min_restored_pages = min_restored_pages
        self._pool = PagePool(num_pages)
        self._trie = PrefixTrie()
        self.host = HostTier(self._trie, max_host_slots)
        self._partial = PartialPages(self._trie, self._pool, page_size)
        self.stored = StoredPages(self._trie, self._pool, self.host)

    @property
    def num_available_pages(self) -> int:
        """Pages that a request could get now. All idle pages count, as the pages below an idle one are idle too."""
        return len(self._pool) + self._trie.num_idle

    @property
    def num_cached_pages(self) -> int:
        """Idle pages: kept only because a later prompt may have the same prefix."""
        return self._trie.num_idle

    @property
    def num_held_pages(self) -> int:
        """Pages that requests hold now."""
        return self.num_pages - len(self._pool) - self._trie.num_idle

    @property
    def num_saved_pages(self) -> int:
        """Pages whose content is in a slot, whether it is in a page of the device as well or not."""
        return self._trie.num_in_slots

    @property
    def has_waiting_copies(self) -> bool:
        """Whether a plan should be made even if no request computes anything."""
        return self._pool.has_waiting_overwrites or self.host.is_waiting

    @property
    def has_waiting_overwrites(self) -> bool:
        """Whether pages or slots are still to be overwritten by a plan."""
        return self._pool.has_waiting_overwrites or self.host.has_waiting_overwrites

    def allocate(self, tenant: str, token_ids: Sequence[int], num_spare_pages: int = 0) -> PageTable | None:
        """A page table for `token_ids`: the pages of the longest prefix hit, and new pages for the rest.

        Nodes of the hit that are only in slots get new pages, which are restored, or computed if there are few of them.
        Returns None if fewer than `num_spare_pages` pages would remain available.
        """
        num_sharable = (len(token_ids) - 1) // self.page_size
        matched = self._match(tenant, token_ids, num_sharable)
        in_pages = [node for node in matched if node.in_page]
        num_new = -(-len(token_ids) // self.page_size) - len(in_pages)
        root = self._trie.roots.get(tenant)
        source = self._partial.source(matched[-1] if matched else root, token_ids, len(matched))
        if num_new + num_spare_pages > self.num_available_pages - sum(node.ref_count == 0 for node in in_pages):
            return None
        table = PageTable(tenant)
        for node in matched:
            self._trie.hold(node)  # also those without a page, so that none is evicted for another one
        table.prefix_nodes += matched
        table.page_ids += [node.page_id for node in in_pages]
        self._add_pages(table, num_new)
        self._refill(table, matched[len(in_pages) :], len(in_pages))
        if source is not None:
            self._partial.duplicate(source, table, len(matched))
        self._share(table, token_ids, num_sharable)
        return table

    def append_pages(self, table: PageTable, num_pages: int) -> bool:
        """Append `num_pages` pages to the table. If fewer are available, append none and return False."""
        if num_pages > self.num_available_pages:
            return False
        self._add_pages(table, num_pages)
        return True

    def next_uncomputed_span(
        self, table: PageTable, num_computed_tokens: int, end: int, budget: int
    ) -> tuple[int, int]:
        """(start, count): the next positions before `end` that this request has to compute, at most `budget`.

        Pages that other requests have computed meanwhile, or that were restored, are skipped, so `start` >=
        `num_computed_tokens`. A count of 0 means that another request is computing the page at `start`, or that it is
        being restored.
        """
        index = num_computed_tokens // self.page_size
        if num_computed_tokens % self.page_size == 0:
            while index < len(table.prefix_nodes) and table.prefix_nodes[index].is_computed:
                index += 1
                num_computed_tokens += self.page_size
            if num_computed_tokens < table.duplicated_end < num_computed_tokens + self.page_size:
                num_computed_tokens = table.duplicated_end
        count = 0
        while count < budget:
            if index >= len(table.prefix_nodes):
                count = end - num_computed_tokens
                break
            node = table.prefix_nodes[index]
            if node.owner is None:
                node.owner = table
            if node.owner is not table:
                break
            index += 1
            count = index * self.page_size - num_computed_tokens
        return num_computed_tokens, min(count, budget)

    def mark_computed(self, table: PageTable, start: int, end: int) -> None:
        """Mark the full pages in positions [start, end) as computed: the step being planned computes them."""
        for node in table.prefix_nodes[start // self.page_size : end // self.page_size]:
            node.is_computed, node.owner = True, None
            self._pool.fill(node.page_id, table.tenant)
            if node.in_slot:
                self._trie.enqueue(node)  # the slot may be taken

    def free(self, table: PageTable, token_ids: Sequence[int]) -> None:
        """Release all pages of a request. `token_ids`: its tokens whose keys and values have been computed.

        The pages with these tokens stay in the trie for later prompts, unless the table is erased.
        """
        self._trie.clock += 1
        if table.is_erased:
            token_ids = ()
            self._pool.overwrite_on_release(table.page_ids)
            if table.prefix_nodes and table.prefix_nodes[0].attached:
                self._drop_subtree(table.prefix_nodes[0], overwrite=True)
        self._keep_pages(table, token_ids)
        for node in reversed(table.prefix_nodes):
            self._let_go(table, node)
        table.prefix_nodes, table.page_ids = [], []

    def invalidate(self, table: PageTable) -> None:
        """Free the pages of a request with NaN or infinite logits, and detach its prefix: no later prompt hits it."""
        if table.prefix_nodes and table.prefix_nodes[0].attached:
            self._drop_subtree(table.prefix_nodes[0])
        self.free(table, ())

    def erase(self, tenant: str, running: Iterable[PageTable]) -> int:
        """Drop and overwrite all that is kept for a tenant; `running` are the tables of its requests.

        What these hold, in pages and slots, is overwritten when they are freed. Returns the number of pages that no
        later prompt will find.
        """
        self.host.erase(tenant)
        self._pool.erase(tenant)
        for table in running:
            table.is_erased = True
        root = self._trie.roots.get(tenant)
        return 0 if root is None else sum(self._drop_subtree(child) for child in list(root.children.values()))

    def drop(self, node: PrefixNode) -> None:
        """Take a node out of the trie, and all that is below it."""
        if node.attached:
            self._drop_subtree(node)

    def begin_plan(self) -> None:
        """Call it before a plan is made."""
        self.host.begin_plan()

    def plan_copies(self, max_restored_pages: int, max_saved_pages: int) -> PageCopies:
        """The copies of pages that go with the plan that was made."""
        overwritten_slots = self.host.plan_overwrites(MAX_OVERWRITTEN_SLOTS)
        # After the overwrites: it may free slots whose content this plan still copies.
        restores = self.host.plan_restores(max_restored_pages)
        for node in self.host.restored:
            self._pool.fill(node.page_id, node.tenant)
        return PageCopies(
            duplicates=self._partial.plan_duplicates(),
            overwritten_pages=self._pool.plan_overwrites(),
            overwritten_slots=overwritten_slots,
            restores=restores,
            saves=self.host.plan_saves(max_saved_pages, self.num_pages // READY_SHARE - len(self._pool)),
        )

    def check(self, tables: Iterable[PageTable] = ()) -> None:
        """Raise AssertionError unless every page and slot is in exactly one place and every count is right. Slow.

        `tables`: of all requests that hold pages.
        """
        check_trie(self._trie, list(self._pool), tables, self.num_pages, self.page_size)
        self.host.check()
        self.stored.check()

    def _match(self, tenant: str, token_ids: Sequence[int], max_pages: int) -> list[PrefixNode]:
        """The nodes of the longest prefix hit of at most `max_pages` pages."""
        node = self._trie.roots.get(tenant)
        matched: list[PrefixNode] = []
        while node is not None and len(matched) < max_pages:
            node = node.children.get(self._page_tokens(token_ids, len(matched)))
            if node is not None:
                matched.append(node)
        return matched

    def _refill(self, table: PageTable, nodes: Sequence[PrefixNode], first: int) -> None:
        """Give nodes that are only in slots the table's pages from number `first` on, to be restored or computed."""
        restores = len(nodes) >= self._min_restored_pages
        for node, page_id in zip(nodes, table.page_ids[first:], strict=False):
            self._trie.move_to_page(node, page_id)
            if restores:
                self.host.restore(node)
            else:
                node.is_computed, node.owner = False, table

    def _share(self, table: PageTable, token_ids: Sequence[int], num_sharable: int) -> None:
        """Let the trie have the first `num_sharable` pages, of which those without a node will be computed."""
        parent, num_matched = self._last_node(table), len(table.prefix_nodes)
        if num_matched < num_sharable:
            self._partial.drop_beginnings(parent, self._page_tokens(token_ids, num_matched))
        for index in range(num_matched, num_sharable):
            parent = self._trie.attach(parent, self._page_tokens(token_ids, index), table.page_ids[index], ref_count=1)
            parent.owner = table
            table.prefix_nodes.append(parent)

    def _keep_pages(self, table: PageTable, token_ids: Sequence[int]) -> None:
        """Let the trie have the pages that only the table holds, as far as they have tokens; release the others."""
        last = self._last_node(table)
        parent = last if last.attached and (last.is_root or last.is_computed) else None
        for index, page_id in enumerate(table.page_ids[len(table.prefix_nodes) :], len(table.prefix_nodes)):
            page_tokens = self._page_tokens(token_ids, index)
            if parent is not None and len(page_tokens) == self.page_size:
                parent = self._keep_page(parent, page_tokens, page_id)
            elif parent is None or not page_tokens or not self._partial.attach(parent, page_tokens, page_id):
                self._pool.release(page_id)

    def _keep_page(self, parent: PrefixNode, page_tokens: tuple[int, ...], page_id: int) -> PrefixNode | None:
        """The node of a full page, which gets `page_id` unless it has a page; None: another request computes it."""
        node = parent.children.get(page_tokens)
        if node is not None and node.in_page:  # one copy is enough
            self._pool.release(page_id)
            if not node.is_computed:
                return None
            self._trie.hold(node)  # it was used now
            self._trie.let_go(node)
            return node
        self._pool.fill(page_id, parent.tenant)
        if node is None:
            self._partial.drop_beginnings(parent, page_tokens)
            return self._trie.attach(parent, page_tokens, page_id, ref_count=0)
        node.last_used = self._trie.clock  # only in a slot so far
        self._trie.move_to_page(node, page_id)
        return node

    def _last_node(self, table: PageTable) -> PrefixNode:
        """The last node of the table's prefix; without one, the root of the tenant's trie."""
        return table.prefix_nodes[-1] if table.prefix_nodes else self._trie.root(table.tenant)

    def _page_tokens(self, token_ids: Sequence[int], index: int) -> tuple[int, ...]:
        return tuple(token_ids[index * self.page_size : (index + 1) * self.page_size])

    def _drop_subtree(self, top: PrefixNode, *, overwrite: bool = False) -> int:
        """Take a subtree out of the trie; returns its size. What requests hold is released when they end."""
        nodes = self._trie.detach(top)
        if overwrite:
            self._pool.overwrite_on_release(node.page_id for node in nodes if node.in_page)
            self.host.overwrite_on_release(nodes)
        for node in nodes:
            self.host.release(node)
            if node.ref_count == 0 and node.in_page:
                self._release_page_of(node)
        return len(nodes)

    def _let_go(self, table: PageTable, node: PrefixNode) -> None:
        if node.owner is table:
            node.owner = None
        self._trie.let_go(node)
        if node.ref_count or (node.attached and node.is_computed):
            return
        if node.in_slot:  # what its page should have got is still there
            self.host.give_up_restoring(node)
        if not node.attached:
            self.host.release(node)
        elif not node.in_slot:
            self._trie.detach(node)
        self._release_page_of(node)

    def _add_pages(self, table: PageTable, num_pages: int) -> None:
        """Append free pages, evicting idle ones as needed. Prefers the page that follows the table's last one."""
        while len(self._pool) < num_pages:
            self._evict()
        for _ in range(num_pages):
            table.page_ids.append(self._pool.take(table.page_ids[-1] + 1 if table.page_ids else 0, table.tenant))

    def _evict(self) -> None:
        """Release the page of the idle leaf that was used longest ago, but rather one whose content is in a slot.

        A page that is older than these and than all in the slots is the first to go.
        """
        saved, node = self._trie.saved_pages.peek(), self._trie.unsaved_pages.peek()
        if saved is not None and (
            node is None or node.last_used >= saved.last_used or (node.is_full and self.host.can_save(node))
        ):
            self._release_page_of(saved)
            return
        if node is None:
            raise IndexError("no idle page is left")
        self._trie.detach(node)
        self._release_page_of(node)
        self.num_evicted_pages += 1

    def _release_page_of(self, node: PrefixNode) -> None:
        page_id = node.page_id
        self._trie.move_to_page(node, -1)
        self._pool.release(page_id)
