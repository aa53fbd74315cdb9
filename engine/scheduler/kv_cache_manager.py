"""The pool of KV pages and the exact trie of what they hold: plain Python, no torch, no queue.

A node is one full page; its key is the page's tuple of tokens, so a match is an exact comparison and never a hash that
might collide. Each tenant has a root of its own: nobody can tell from timing what another tenant has said. A page that
no request holds stays in the trie until room is needed; the one whose leaf was left longest ago goes first.

The pages of an admitted prompt enter the trie before they are computed, marked with the request that will compute
them. A second request with the same prefix holds the same pages and waits for them, or takes the work over when the
first one leaves. The last token of a prompt is always computed by its own request, which needs the logits.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence


class PrefixNode:
    """One full page in the trie. Not ready: its `owner` is to compute it (None: whoever needs it next)."""

    __slots__ = (
        "attached",
        "children",
        "is_computed",
        "last_used",
        "owner",
        "page_id",
        "parent",
        "ref_count",
        "token_ids",
    )

    def __init__(self, key: tuple[int, ...], page: int, parent: "PrefixNode | None") -> None:
        self.token_ids, self.page_id, self.parent = key, page, parent
        self.children: dict[tuple[int, ...], PrefixNode] = {}
        self.ref_count = 0
        self.is_computed = False
        self.owner: PageTable | None = None
        self.last_used = 0
        self.attached = True


class PageTable:
    """The pages of one request in the order of its positions: nodes of the trie, then pages of its own."""

    __slots__ = ("page_ids", "prefix_nodes", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.prefix_nodes: list[PrefixNode] = []
        self.page_ids: list[int] = []


class KVCacheManager:
    def __init__(self, num_pages: int, page_size: int = 16) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self.num_evicted_pages = 0
        self._free = list(range(num_pages))  # ascending, so that a request's pages tend to lie side by side
        self._roots: dict[str, PrefixNode] = {}
        self._idle = 0  # pages in the trie that no request holds
        self._leaves: list[tuple[int, int, PrefixNode]] = []  # heap of idle leaves; entries may be out of date
        self._clock = self._serial = 0

    @property
    def num_available_pages(self) -> int:
        """Pages that a request could get now. The descendants of an idle page are idle too, so all of those count."""
        return len(self._free) + self._idle

    @property
    def num_cached_pages(self) -> int:
        """Pages kept for later prompts only."""
        return self._idle

    def allocate(self, tenant: str, token_ids: Sequence[int], num_spare_pages: int = 0) -> PageTable | None:
        """Pages for all of `tokens`, as many as possible of them shared; None if fewer than `spare` would be left."""
        node: PrefixNode | None = self._roots.get(tenant)
        sharable = (len(token_ids) - 1) // self.page_size
        matched: list[PrefixNode] = []
        while node is not None and len(matched) < sharable:
            node = node.children.get(self._key(token_ids, len(matched)))
            if node is not None:
                matched.append(node)
        need = -(-len(token_ids) // self.page_size) - len(matched)
        if need + num_spare_pages > self.num_available_pages - sum(node.ref_count == 0 for node in matched):
            return None
        hold = PageTable(tenant)
        for node in matched:
            self._take_ref(hold, node)
        self._extend(hold, need)
        parent = matched[-1] if matched else self._root(tenant)
        for index in range(len(matched), sharable):
            node = self._attach(parent, self._key(token_ids, index), hold.page_ids[index])
            node.ref_count, node.owner = 1, hold
            hold.prefix_nodes.append(node)
            parent = node
        self._drop_root(tenant)
        return hold

    def append_pages(self, table: PageTable, num_pages: int) -> bool:
        """`count` more pages at the end, or none at all."""
        if num_pages > self.num_available_pages:
            return False
        self._extend(table, num_pages)
        return True

    def next_uncomputed_span(
        self, table: PageTable, num_computed_tokens: int, end: int, budget: int
    ) -> tuple[int, int]:
        """From position `fed`: skip pages that others have computed, then how many of the tokens before `end` are
        ours to compute, at most `budget`. (start, 0): another request is computing the page at `start`.
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
        """Positions [start, end) of `hold` are computed by the step being planned."""
        for node in table.prefix_nodes[start // self.page_size : end // self.page_size]:
            node.is_computed, node.owner = True, None

    def free(self, table: PageTable, token_ids: Sequence[int]) -> None:
        """Give the pages back; those that `tokens` (known and computed) fill stay in the trie for later prompts."""
        self._clock += 1
        own = table.page_ids[len(table.prefix_nodes) :]
        parent = table.prefix_nodes[-1] if table.prefix_nodes else self._root(table.tenant)
        keep = parent.attached and (parent.is_computed or parent.parent is None)
        for index, page in enumerate(own, len(table.prefix_nodes)):
            full = (index + 1) * self.page_size <= len(token_ids)
            node = parent.children.get(self._key(token_ids, index)) if keep and full else None
            if keep and full and node is None:
                parent = self._attach(parent, self._key(token_ids, index), page)
                parent.is_computed, parent.last_used = True, self._clock
                self._idle += 1
                self._push(parent)
                continue
            if node is None or not node.is_computed:
                keep = False
            else:
                parent = node  # another request brought the same page in: one copy is enough
            self._release_page(page)
        for node in reversed(table.prefix_nodes):
            self._drop_ref(table, node)
        table.prefix_nodes, table.page_ids = [], []
        self._drop_root(table.tenant)

    def invalidate(self, table: PageTable) -> None:
        """Give the pages back and let no later prompt see what they hold (numbers that went wrong)."""
        if table.prefix_nodes and table.prefix_nodes[0].attached:
            self._detach(table.prefix_nodes[0])
        self.free(table, ())

    def check(self) -> None:
        """Raise AssertionError unless every page is in exactly one place and every count is right. For idle moments."""
        seen = list(self._free)
        idle = held = 0
        for root in self._roots.values():
            for node in _walk(root):
                seen.append(node.page_id)
                idle += node.ref_count == 0
                held += node.ref_count
                held_below = max((child.ref_count for child in node.children.values()), default=0)
                if (
                    node.ref_count < held_below
                    or (node.ref_count == 0 and not node.is_computed)
                    or len(node.token_ids) != self.page_size
                ):
                    raise AssertionError(
                        f"page {node.page_id}: {node.ref_count} holders above {held_below}, {node.is_computed=}"
                    )
        if not held and len(seen) != self.num_pages:
            raise AssertionError(f"{self.num_pages - len(seen)} pages are lost")
        if idle != self._idle or len(seen) != len(set(seen)) or self._free != sorted(self._free):
            raise AssertionError(
                f"{idle} idle pages counted as {self._idle}; {len(seen)} places, {len(set(seen))} pages"
            )
        if any(not root.children for root in self._roots.values()):
            raise AssertionError("an empty tenant was kept")

    @property
    def num_held_pages(self) -> int:
        """Pages that requests hold now."""
        return self.num_pages - len(self._free) - self._idle

    def _key(self, tokens: Sequence[int], index: int) -> tuple[int, ...]:
        return tuple(tokens[index * self.page_size : (index + 1) * self.page_size])

    def _root(self, tenant: str) -> PrefixNode:
        if tenant not in self._roots:
            self._roots[tenant] = PrefixNode((), -1, None)
        return self._roots[tenant]

    def _drop_root(self, tenant: str) -> None:
        if tenant in self._roots and not self._roots[tenant].children:
            del self._roots[tenant]

    def _attach(self, parent: PrefixNode, key: tuple[int, ...], page: int) -> PrefixNode:
        node = parent.children[key] = PrefixNode(key, page, parent)
        return node

    def _detach(self, top: PrefixNode) -> None:
        if top.parent is not None:
            del top.parent.children[top.token_ids]
        for node in [top, *_walk(top)]:
            node.attached = False
            if node.ref_count == 0:
                self._idle -= 1
                self._release_page(node.page_id)

    def _take_ref(self, hold: PageTable, node: PrefixNode) -> None:
        self._idle -= node.ref_count == 0
        node.ref_count += 1
        hold.prefix_nodes.append(node)
        hold.page_ids.append(node.page_id)

    def _drop_ref(self, hold: PageTable, node: PrefixNode) -> None:
        node.ref_count -= 1
        if node.owner is hold:
            node.owner = None
        if node.ref_count:
            return
        node.last_used = self._clock
        if not node.attached:
            self._release_page(node.page_id)
        elif node.is_computed:
            self._idle += 1
            self._push(node)
        else:
            self._remove(node)

    def _remove(self, node: PrefixNode) -> None:
        """Take a childless page out of the trie."""
        node.attached = False
        if node.parent is not None:
            del node.parent.children[node.token_ids]
        self._release_page(node.page_id)

    def _push(self, node: PrefixNode) -> None:
        if not self._is_idle_leaf(node):
            return
        if len(self._leaves) > 2 * self.num_pages + 64:
            self._leaves = [
                entry for entry in self._leaves if self._is_idle_leaf(entry[2]) and entry[0] == entry[2].last_used
            ]
            heapq.heapify(self._leaves)
        self._serial += 1
        heapq.heappush(self._leaves, (node.last_used, self._serial, node))

    @staticmethod
    def _is_idle_leaf(node: PrefixNode) -> bool:
        return node.attached and node.ref_count == 0 and not node.children and node.parent is not None

    def _extend(self, hold: PageTable, count: int) -> None:
        while len(self._free) < count:
            self._evict()
        for _ in range(count):
            after = hold.page_ids[-1] + 1 if hold.page_ids else 0
            at = bisect_left(self._free, after)
            hold.page_ids.append(self._free.pop(at if at < len(self._free) else 0))

    def _evict(self) -> None:
        """Drop the idle leaf that was left longest ago."""
        while True:
            touched, _, node = heapq.heappop(self._leaves)
            if self._is_idle_leaf(node) and node.last_used == touched:
                break
        parent = node.parent
        self._remove(node)
        self._idle -= 1
        self.num_evicted_pages += 1
        if parent is not None:
            if parent.parent is None and not parent.children:
                self._roots = {tenant: root for tenant, root in self._roots.items() if root.children}
            self._push(parent)

    def _release_page(self, page: int) -> None:
        insort(self._free, page)


def _walk(root: PrefixNode) -> Iterator[PrefixNode]:
    stack = list(root.children.values())
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())
