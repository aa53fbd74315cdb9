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


class Node:
    """One full page in the trie. Not ready: its `owner` is to compute it (None: whoever needs it next)."""

    __slots__ = ("attached", "children", "key", "owner", "page", "parent", "ready", "refs", "touched")

    def __init__(self, key: tuple[int, ...], page: int, parent: "Node | None") -> None:
        self.key, self.page, self.parent = key, page, parent
        self.children: dict[tuple[int, ...], Node] = {}
        self.refs = 0
        self.ready = False
        self.owner: Hold | None = None
        self.touched = 0
        self.attached = True


class Hold:
    """The pages of one request in the order of its positions: nodes of the trie, then pages of its own."""

    __slots__ = ("nodes", "pages", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.nodes: list[Node] = []
        self.pages: list[int] = []


class KVCache:
    def __init__(self, pages: int, page: int = 16) -> None:
        self.pages, self.page = pages, page
        self.evicted = 0
        self._free = list(range(pages))  # ascending, so that a request's pages tend to lie side by side
        self._roots: dict[str, Node] = {}
        self._idle = 0  # pages in the trie that no request holds
        self._leaves: list[tuple[int, int, Node]] = []  # heap of idle leaves; entries may be out of date
        self._clock = self._serial = 0

    @property
    def available(self) -> int:
        """Pages that a request could get now. The descendants of an idle page are idle too, so all of those count."""
        return len(self._free) + self._idle

    @property
    def cached(self) -> int:
        """Pages kept for later prompts only."""
        return self._idle

    def admit(self, tenant: str, tokens: Sequence[int], spare: int = 0) -> Hold | None:
        """Pages for all of `tokens`, as many as possible of them shared; None if fewer than `spare` would be left."""
        node: Node | None = self._roots.get(tenant)
        sharable = (len(tokens) - 1) // self.page
        matched: list[Node] = []
        while node is not None and len(matched) < sharable:
            node = node.children.get(self._key(tokens, len(matched)))
            if node is not None:
                matched.append(node)
        need = -(-len(tokens) // self.page) - len(matched)
        if need + spare > self.available - sum(node.refs == 0 for node in matched):
            return None
        hold = Hold(tenant)
        for node in matched:
            self._take_ref(hold, node)
        self._extend(hold, need)
        parent = matched[-1] if matched else self._root(tenant)
        for index in range(len(matched), sharable):
            node = self._attach(parent, self._key(tokens, index), hold.pages[index])
            node.refs, node.owner = 1, hold
            hold.nodes.append(node)
            parent = node
        self._drop_root(tenant)
        return hold

    def grow(self, hold: Hold, count: int) -> bool:
        """`count` more pages at the end, or none at all."""
        if count > self.available:
            return False
        self._extend(hold, count)
        return True

    def span(self, hold: Hold, fed: int, end: int, budget: int) -> tuple[int, int]:
        """From position `fed`: skip pages that others have computed, then how many of the tokens before `end` are
        ours to compute, at most `budget`. (start, 0): another request is computing the page at `start`.
        """
        index = fed // self.page
        if fed % self.page == 0:
            while index < len(hold.nodes) and hold.nodes[index].ready:
                index += 1
                fed += self.page
        count = 0
        while count < budget:
            if index >= len(hold.nodes):
                count = end - fed
                break
            node = hold.nodes[index]
            if node.owner is None:
                node.owner = hold
            if node.owner is not hold:
                break
            index += 1
            count = index * self.page - fed
        return fed, min(count, budget)

    def computed(self, hold: Hold, start: int, end: int) -> None:
        """Positions [start, end) of `hold` are computed by the step being planned."""
        for node in hold.nodes[start // self.page : end // self.page]:
            node.ready, node.owner = True, None

    def close(self, hold: Hold, tokens: Sequence[int]) -> None:
        """Give the pages back; those that `tokens` (known and computed) fill stay in the trie for later prompts."""
        self._clock += 1
        own = hold.pages[len(hold.nodes) :]
        parent = hold.nodes[-1] if hold.nodes else self._root(hold.tenant)
        keep = parent.attached and (parent.ready or parent.parent is None)
        for index, page in enumerate(own, len(hold.nodes)):
            full = (index + 1) * self.page <= len(tokens)
            node = parent.children.get(self._key(tokens, index)) if keep and full else None
            if keep and full and node is None:
                parent = self._attach(parent, self._key(tokens, index), page)
                parent.ready, parent.touched = True, self._clock
                self._idle += 1
                self._push(parent)
                continue
            if node is None or not node.ready:
                keep = False
            else:
                parent = node  # another request brought the same page in: one copy is enough
            self._release_page(page)
        for node in reversed(hold.nodes):
            self._drop_ref(hold, node)
        hold.nodes, hold.pages = [], []
        self._drop_root(hold.tenant)

    def forget(self, hold: Hold) -> None:
        """Give the pages back and let no later prompt see what they hold (numbers that went wrong)."""
        if hold.nodes and hold.nodes[0].attached:
            self._detach(hold.nodes[0])
        self.close(hold, ())

    def check(self) -> None:
        """Raise AssertionError unless every page is in exactly one place and every count is right. For idle moments."""
        seen = list(self._free)
        idle = held = 0
        for root in self._roots.values():
            for node in _walk(root):
                seen.append(node.page)
                idle += node.refs == 0
                held += node.refs
                held_below = max((child.refs for child in node.children.values()), default=0)
                if node.refs < held_below or (node.refs == 0 and not node.ready) or len(node.key) != self.page:
                    raise AssertionError(f"page {node.page}: {node.refs} holders above {held_below}, {node.ready=}")
        if not held and len(seen) != self.pages:
            raise AssertionError(f"{self.pages - len(seen)} pages are lost")
        if idle != self._idle or len(seen) != len(set(seen)) or self._free != sorted(self._free):
            raise AssertionError(
                f"{idle} idle pages counted as {self._idle}; {len(seen)} places, {len(set(seen))} pages"
            )
        if any(not root.children for root in self._roots.values()):
            raise AssertionError("an empty tenant was kept")

    @property
    def held(self) -> int:
        """Pages that requests hold now."""
        return self.pages - len(self._free) - self._idle

    def _key(self, tokens: Sequence[int], index: int) -> tuple[int, ...]:
        return tuple(tokens[index * self.page : (index + 1) * self.page])

    def _root(self, tenant: str) -> Node:
        if tenant not in self._roots:
            self._roots[tenant] = Node((), -1, None)
        return self._roots[tenant]

    def _drop_root(self, tenant: str) -> None:
        if tenant in self._roots and not self._roots[tenant].children:
            del self._roots[tenant]

    def _attach(self, parent: Node, key: tuple[int, ...], page: int) -> Node:
        node = parent.children[key] = Node(key, page, parent)
        return node

    def _detach(self, top: Node) -> None:
        if top.parent is not None:
            del top.parent.children[top.key]
        for node in [top, *_walk(top)]:
            node.attached = False
            if node.refs == 0:
                self._idle -= 1
                self._release_page(node.page)

    def _take_ref(self, hold: Hold, node: Node) -> None:
        self._idle -= node.refs == 0
        node.refs += 1
        hold.nodes.append(node)
        hold.pages.append(node.page)

    def _drop_ref(self, hold: Hold, node: Node) -> None:
        node.refs -= 1
        if node.owner is hold:
            node.owner = None
        if node.refs:
            return
        node.touched = self._clock
        if not node.attached:
            self._release_page(node.page)
        elif node.ready:
            self._idle += 1
            self._push(node)
        else:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        """Take a childless page out of the trie."""
        node.attached = False
        if node.parent is not None:
            del node.parent.children[node.key]
        self._release_page(node.page)

    def _push(self, node: Node) -> None:
        if not self._is_idle_leaf(node):
            return
        if len(self._leaves) > 2 * self.pages + 64:
            self._leaves = [
                entry for entry in self._leaves if self._is_idle_leaf(entry[2]) and entry[0] == entry[2].touched
            ]
            heapq.heapify(self._leaves)
        self._serial += 1
        heapq.heappush(self._leaves, (node.touched, self._serial, node))

    @staticmethod
    def _is_idle_leaf(node: Node) -> bool:
        return node.attached and node.refs == 0 and not node.children and node.parent is not None

    def _extend(self, hold: Hold, count: int) -> None:
        while len(self._free) < count:
            self._evict()
        for _ in range(count):
            after = hold.pages[-1] + 1 if hold.pages else 0
            at = bisect_left(self._free, after)
            hold.pages.append(self._free.pop(at if at < len(self._free) else 0))

    def _evict(self) -> None:
        """Drop the idle leaf that was left longest ago."""
        while True:
            touched, _, node = heapq.heappop(self._leaves)
            if self._is_idle_leaf(node) and node.touched == touched:
                break
        parent = node.parent
        self._remove(node)
        self._idle -= 1
        self.evicted += 1
        if parent is not None:
            if parent.parent is None and not parent.children:
                self._roots = {tenant: root for tenant, root in self._roots.items() if root.children}
            self._push(parent)

    def _release_page(self, page: int) -> None:
        insort(self._free, page)


def _walk(root: Node) -> Iterator[Node]:
    stack = list(root.children.values())
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())
