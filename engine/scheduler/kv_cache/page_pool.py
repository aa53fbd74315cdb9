"""The pages of the device by number: which are free, whose bytes are in them, and which must be overwritten.

It knows no trie and no request.
"""

from collections.abc import Iterable, Iterator

from engine.scheduler.kv_cache.free_list import FreeList
from engine.scheduler.kv_cache.residues import Residues


class PagePool:
    """Every page is free or taken. A free page may be yet to overwrite: a plan overwrites pages before it computes."""

    def __init__(self, num_pages: int) -> None:
        self._free = FreeList(num_pages)
        self._residues = Residues()
        self._to_overwrite: list[int] = []

    def __len__(self) -> int:
        """The number of free pages."""
        return len(self._free)

    def __iter__(self) -> Iterator[int]:
        """The free pages, ascending."""
        return iter(self._free)

    @property
    def has_waiting_overwrites(self) -> bool:
        """Whether a plan is still to overwrite pages."""
        return bool(self._to_overwrite)

    def is_to_be_overwritten(self, page_id: int) -> bool:
        """Whether the next plan fills the page with zeros."""
        return page_id in self._to_overwrite

    def take(self, preferred: int, tenant: str) -> int:
        """A free page, if possible `preferred` or the next one above it, of which a part will be written."""
        page_id = self._free.take(preferred)
        self._residues.write(page_id, tenant)
        return page_id

    def fill(self, page_id: int, tenant: str) -> None:
        """The whole page will be written for a tenant."""
        self._residues.fill(page_id, tenant)

    def release(self, page_id: int) -> None:
        """The page is free again."""
        if self._residues.is_overwritten_on_release(page_id):
            self._to_overwrite.append(page_id)
        self._free.release(page_id)

    def overwrite_on_release(self, page_ids: Iterable[int]) -> None:
        """These taken pages must be overwritten when they are released."""
        self._residues.overwrite_on_release(page_ids)

    def erase(self, tenant: str) -> None:
        """Overwrite what is left of a tenant: in free pages by the next plan, in others when they are released."""
        page_ids, free = self._residues.of(tenant), set(self._free)
        for page_id in page_ids:
            if page_id in free:
                self._residues.overwrite(page_id)
                self._to_overwrite.append(page_id)
        self._residues.overwrite_on_release(page_id for page_id in page_ids if page_id not in free)

    def plan_overwrites(self) -> tuple[int, ...]:
        """The pages that the next plan fills with zeros."""
        page_ids, self._to_overwrite = tuple(self._to_overwrite), []
        return page_ids
