"""The pages of one request, and the trie nodes that let requests share them. `kv_cache_manager.py` has the rules."""

from collections.abc import Iterator


class PrefixNode:
    """One full page in the prefix trie. Its path from the tenant's root spells the tokens of the page and all before.

    While `is_computed` is False, `owner` is the request that computes the page; None: the next one that needs it.
    """

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

    def __init__(self, token_ids: tuple[int, ...], page_id: int, parent: "PrefixNode | None") -> None:
        self.token_ids, self.page_id, self.parent = token_ids, page_id, parent
        self.children: dict[tuple[int, ...], PrefixNode] = {}
        self.ref_count = 0  # requests that hold the page
        self.is_computed = False
        self.owner: PageTable | None = None
        self.last_used = 0  # on the cache manager's logical clock
        self.attached = True  # False: no longer in the trie, but requests may still hold the page

    @property
    def is_evictable(self) -> bool:
        """Whether it is a leaf of the trie that no request holds. A root is never evictable."""
        return self.attached and self.ref_count == 0 and not self.children and self.parent is not None

    def descendants(self) -> Iterator["PrefixNode"]:
        """All nodes below this one, in no particular order."""
        stack = list(self.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


class PageTable:
    """The page ids of one request by position: first those of `prefix_nodes`, then pages that only it holds."""

    __slots__ = ("page_ids", "prefix_nodes", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.prefix_nodes: list[PrefixNode] = []
        self.page_ids: list[int] = []
