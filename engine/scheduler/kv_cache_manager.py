"""The pool of KV pages, and the prefix trie that lets requests share them. Plain Python: no torch, no queue.

A node of the trie is one full page, keyed by the tuple of the page's token ids. A prefix hit is thus an exact match,
never a hash that might collide. Every tenant has a trie of its own, so that a tenant cannot tell from response times
what another tenant's prompts contain.

- A page that no request holds is idle: it stays in the trie until a request needs the memory. The leaf that was used
  longest ago is evicted first.
- The pages of an admitted prompt enter the trie before they are computed, marked with their owner, the request that
  will compute them. Another request with the same prefix takes the same pages and waits until they are computed. If the
  owner is freed first, the next request that needs such a page becomes its owner.
- The last token of a prompt is always computed by the request itself, which needs the logits.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

from engine.scheduler.eviction import EvictionQueue
from engine.scheduler.page_table import PageTable, PrefixNode


class KVCacheManager:
    """Every page is free, idle in a trie, or held by requests (see `num_held_pages`)."""

    def __init__(self, num_pages: int, page_size: int = 16) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self.num_evicted_pages = 0
        self._free_pages = list(range(num_pages))  # ascending, so that the pages of a request tend to be neighbours
        self._num_idle = 0
        self._roots: dict[str, PrefixNode] = {}  # by tenant; only roots with children
        self._eviction_queue = EvictionQueue(max_entries=2 * num_pages + 64)
        self._clock = 0  # logical time of last use: the number of `free` calls

    @property
    def num_available_pages(self) -> int:
        """Pages that a request could get now. All idle pages count, as the descendants of an idle page are idle too."""
        return len(self._free_pages) + self._num_idle

    @property
    def num_cached_pages(self) -> int:
        """Idle pages: kept only because a later prompt may have the same prefix."""
        return self._num_idle

    @property
    def num_held_pages(self) -> int:
        """Pages that requests hold now."""
        return self.num_pages - len(self._free_pages) - self._num_idle

    def allocate(self, tenant: str, token_ids: Sequence[int], num_spare_pages: int = 0) -> PageTable | None:
        """A page table for `token_ids`: the pages of the longest prefix hit, and new pages for the rest.

        Returns None if fewer than `num_spare_pages` pages would remain available.
        """
        node: PrefixNode | None = self._roots.get(tenant)
        num_sharable = (len(token_ids) - 1) // self.page_size
        matched: list[PrefixNode] = []
        while node is not None and len(matched) < num_sharable:
            node = node.children.get(self._page_tokens(token_ids, len(matched)))
            if node is not None:
                matched.append(node)
        num_new = -(-len(token_ids) // self.page_size) - len(matched)
        if num_new + num_spare_pages > self.num_available_pages - sum(node.ref_count == 0 for node in matched):
            return None
        table = PageTable(tenant)
        for node in matched:
            self._take_ref(table, node)
        self._add_pages(table, num_new)
        parent = matched[-1] if matched else self._root(tenant)
        for index in range(len(matched), num_sharable):
            node = self._attach(parent, self._page_tokens(token_ids, index), table.page_ids[index])
            node.ref_count, node.owner = 1, table
            table.prefix_nodes.append(node)
            parent = node
        self._drop_root_if_empty(tenant)
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

        Pages that other requests have computed meanwhile are skipped, so `start` >= `num_computed_tokens`. A count of 0
        means that another request is computing the page at `start`.
        """
        index = num_computed_tokens // self.page_size
        if num_computed_tokens % self.page_size == 0:
            while index < len(table.prefix_nodes) and table.prefix_nodes[index].is_computed:
                index += 1
                num_computed_tokens += self.page_size
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

    def free(self, table: PageTable, token_ids: Sequence[int]) -> None:
        """Release all pages of a request. `token_ids`: its tokens whose keys and values have been computed.

        The pages that these tokens fill stay in the trie for later prompts.
        """
        self._clock += 1
        parent = table.prefix_nodes[-1] if table.prefix_nodes else self._root(table.tenant)
        can_attach = parent.attached and (parent.is_computed or parent.parent is None)
        for index, page_id in enumerate(table.page_ids[len(table.prefix_nodes) :], len(table.prefix_nodes)):
            is_full = (index + 1) * self.page_size <= len(token_ids)
            node = parent.children.get(self._page_tokens(token_ids, index)) if can_attach and is_full else None
            if can_attach and is_full and node is None:
                parent = self._attach(parent, self._page_tokens(token_ids, index), page_id)
                parent.is_computed, parent.last_used = True, self._clock
                self._num_idle += 1
                self._eviction_queue.push(parent)
                continue
            if node is None or not node.is_computed:
                can_attach = False
            else:
                parent = node  # another request has attached an equal page: one copy is enough
            self._release(page_id)
        for node in reversed(table.prefix_nodes):
            self._drop_ref(table, node)
        table.prefix_nodes, table.page_ids = [], []
        self._drop_root_if_empty(table.tenant)

    def invalidate(self, table: PageTable) -> None:
        """Free the pages of a request with NaN or infinite logits, and detach its prefix: no later prompt hits it."""
        if table.prefix_nodes and table.prefix_nodes[0].attached:
            self._detach_subtree(table.prefix_nodes[0])
        self.free(table, ())

    def check(self) -> None:
        """Raise AssertionError unless every page is in exactly one place and every count is right. Slow."""
        seen = list(self._free_pages)
        num_idle = num_refs = 0
        for root in self._roots.values():
            for node in root.descendants():
                seen.append(node.page_id)
                num_idle += node.ref_count == 0
                num_refs += node.ref_count
                refs_below = max((child.ref_count for child in node.children.values()), default=0)
                if (
                    node.ref_count < refs_below
                    or (node.ref_count == 0 and not node.is_computed)
                    or len(node.token_ids) != self.page_size
                ):
                    raise AssertionError(
                        f"page {node.page_id}: {node.ref_count} references, {refs_below} below, {node.is_computed=}"
                    )
        if not num_refs and len(seen) != self.num_pages:
            raise AssertionError(f"{self.num_pages - len(seen)} pages are leaked")
        if num_idle != self._num_idle or len(seen) != len(set(seen)) or self._free_pages != sorted(self._free_pages):
            raise AssertionError(
                f"{num_idle} idle pages counted as {self._num_idle}; {len(seen)} places, {len(set(seen))} pages"
            )
        if any(not root.children for root in self._roots.values()):
            raise AssertionError("the root of an empty trie was kept")

    def _page_tokens(self, token_ids: Sequence[int], index: int) -> tuple[int, ...]:
        return tuple(token_ids[index * self.page_size : (index + 1) * self.page_size])

    def _root(self, tenant: str) -> PrefixNode:
        if tenant not in self._roots:
            self._roots[tenant] = PrefixNode((), -1, None)
        return self._roots[tenant]

    def _drop_root_if_empty(self, tenant: str) -> None:
        if tenant in self._roots and not self._roots[tenant].children:
            del self._roots[tenant]

    def _attach(self, parent: PrefixNode, token_ids: tuple[int, ...], page_id: int) -> PrefixNode:
        node = parent.children[token_ids] = PrefixNode(token_ids, page_id, parent)
        return node

    def _detach_leaf(self, node: PrefixNode) -> None:
        """Take a leaf out of the trie and release its page."""
        node.attached = False
        if node.parent is not None:
            del node.parent.children[node.token_ids]
        self._release(node.page_id)

    def _detach_subtree(self, top: PrefixNode) -> None:
        """Take a subtree out of the trie. Pages that requests hold are released when the requests end."""
        if top.parent is not None:
            del top.parent.children[top.token_ids]
        for node in [top, *top.descendants()]:
            node.attached = False
            if node.ref_count == 0:
                self._num_idle -= 1
                self._release(node.page_id)

    def _take_ref(self, table: PageTable, node: PrefixNode) -> None:
        self._num_idle -= node.ref_count == 0
        node.ref_count += 1
        table.prefix_nodes.append(node)
        table.page_ids.append(node.page_id)

    def _drop_ref(self, table: PageTable, node: PrefixNode) -> None:
        node.ref_count -= 1
        if node.owner is table:
            node.owner = None
        if node.ref_count:
            return
        node.last_used = self._clock
        if not node.attached:
            self._release(node.page_id)
        elif node.is_computed:
            self._num_idle += 1
            self._eviction_queue.push(node)
        else:
            self._detach_leaf(node)

    def _add_pages(self, table: PageTable, num_pages: int) -> None:
        """Append free pages, evicting idle ones as needed. Prefers the page that follows the table's last one."""
        while len(self._free_pages) < num_pages:
            self._evict()
        for _ in range(num_pages):
            preferred = table.page_ids[-1] + 1 if table.page_ids else 0
            at = bisect_left(self._free_pages, preferred)
            table.page_ids.append(self._free_pages.pop(at if at < len(self._free_pages) else 0))

    def _evict(self) -> None:
        """Release the idle leaf that was used longest ago."""
        node = self._eviction_queue.pop()
        parent = node.parent
        self._detach_leaf(node)
        self._num_idle -= 1
        self.num_evicted_pages += 1
        if parent is not None:
            if parent.parent is None and not parent.children:
                self._roots = {tenant: root for tenant, root in self._roots.items() if root.children}
            self._eviction_queue.push(parent)

    def _release(self, page_id: int) -> None:
        insort(self._free_pages, page_id)
