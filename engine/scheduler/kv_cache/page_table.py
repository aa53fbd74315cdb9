"""The pages of one request, and the trie nodes that let requests share them. `kv_cache_manager.py` has the rules."""

from collections.abc import Iterator
from typing import Final

IN_USE: Final = 1 << 62  # later than any time


class PrefixNode:
    """One page in the prefix trie. Its path from the tenant's root spells the tokens of the page and all before.

    A page that is not full (`is_full`) is a leaf. No request holds it: it is duplicated for those with that beginning.

    Its keys and values are in a page of the device, in a slot of the host, or in both. `is_computed` is False while the
    page does not have them yet: `owner` is then the request that computes them (None: the next one that needs it), or
    RESTORING. A copy may be in a record of a file that outlives the engine.
    """

    __slots__ = (
        "attached",
        "children",
        "host_slot",
        "is_computed",
        "is_full",
        "last_used",
        "num_children_in_pages",
        "num_children_in_slots",
        "num_children_stored",
        "owner",
        "page_id",
        "parent",
        "record",
        "ref_count",
        "tenant",
        "token_ids",
    )

    def __init__(self, tenant: str, token_ids: tuple[int, ...], parent: "PrefixNode | None") -> None:
        self.tenant, self.token_ids, self.parent = tenant, token_ids, parent
        self.page_id = self.host_slot = self.record = -1  # -1: none
        self.children: dict[tuple[int, ...], PrefixNode] = {}
        self.num_children_in_pages = self.num_children_in_slots = self.num_children_stored = 0
        self.ref_count = 0  # requests that hold the page
        self.is_computed = False
        self.is_full = True
        self.owner: PageTable | None = None
        self.last_used = 0  # on the cache manager's logical clock
        self.attached = True  # False: no longer in the trie, but requests may still hold the page

    @property
    def in_page(self) -> bool:
        """Whether it has a page of the device."""
        return self.page_id >= 0

    @property
    def in_slot(self) -> bool:
        """Whether it has a slot of the host, whose content is complete."""
        return self.host_slot >= 0

    @property
    def is_root(self) -> bool:
        """Whether it is the root of a tenant's trie, which is no page."""
        return self.parent is None

    @property
    def is_idle(self) -> bool:
        """Whether it is in the trie with a page that no request holds."""
        return self.attached and self.ref_count == 0 and self.page_id >= 0

    @property
    def is_evictable(self) -> bool:
        """Whether its page may be taken: it is idle, and so is no page of a child. A root is never evictable."""
        return self.is_idle and not self.num_children_in_pages

    @property
    def recency(self) -> int:
        """When it was used last; held nodes are in use."""
        return IN_USE if self.ref_count else self.last_used

    def move_to_page(self, page_id: int) -> None:
        """Set its page; -1: it has none any more."""
        if self.parent is not None:
            self.parent.num_children_in_pages += (page_id >= 0) - (self.page_id >= 0)
        self.page_id = page_id

    def move_to_slot(self, host_slot: int) -> None:
        """Set its slot; -1: it has none any more."""
        if self.parent is not None:
            self.parent.num_children_in_slots += (host_slot >= 0) - (self.host_slot >= 0)
        self.host_slot = host_slot

    def move_to_record(self, record: int) -> None:
        """Set its record; -1: it has none any more."""
        if self.parent is not None:
            self.parent.num_children_stored += (record >= 0) - (self.record >= 0)
        self.record = record

    def detach(self) -> None:
        """Take it out of its parent's children. What is below it stays below it."""
        self.attached = False
        if self.parent is not None:
            del self.parent.children[self.token_ids]
            self.parent.num_children_in_pages -= self.page_id >= 0
            self.parent.num_children_in_slots -= self.host_slot >= 0
            self.parent.num_children_stored -= self.record >= 0
            self.parent = None

    def descendants(self) -> Iterator["PrefixNode"]:
        """All nodes below this one, in no particular order."""
        stack = list(self.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


class PageTable:
    """The page ids of one request by position: first those of `prefix_nodes`, then pages that only it holds.

    `duplicated_end`: the page at this position has the tokens before it from another page; 0: none has.
    """

    __slots__ = ("duplicated_end", "is_erased", "page_ids", "prefix_nodes", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.prefix_nodes: list[PrefixNode] = []
        self.page_ids: list[int] = []
        self.duplicated_end = 0
        self.is_erased = False  # nothing of it may be kept once it is freed


RESTORING: Final = PageTable("")
"""The owner of a page that is being copied from the host."""
