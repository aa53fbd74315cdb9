"""The host tier of a runner whose pages are in ordinary memory, and what the CUDA runner's has in common with it.

It knows pages and slots as numbers. Plans say which of them are copied.
"""

from collections.abc import Sequence

import torch

from engine.layers.paged_kv import PagedKV
from engine.runner.page_images import PageImages, split_image
from engine.scheduler.kv_cache.page_copies import PageCopies


class HostPages:
    """`num_slots` slots, each with room for what a page holds.

    Uninitialized, so the operating system commits memory only as it is written.
    """

    def __init__(self, kv: PagedKV, num_slots: int) -> None:
        self._kv = kv
        self.parts = tuple(torch.empty((num_slots, *part.shape[1:]), dtype=part.dtype) for part in kv.parts)

    def copy(self, copies: PageCopies) -> None:
        """Do it before the plan's step is computed, whose pages these are not."""
        if not copies:
            return
        for pages, slots in zip(self._kv.parts, self.parts, strict=True):
            if copies.duplicates:
                from_pages, to_pages = zip(*copies.duplicates, strict=True)
                pages[list(to_pages)] = pages[list(from_pages)]
            if copies.overwritten_pages:
                pages[list(copies.overwritten_pages)] = 0
            if copies.overwritten_slots:
                slots[list(copies.overwritten_slots)] = 0
            if copies.restores:
                from_slots, to_pages = zip(*copies.restores, strict=True)
                pages[list(to_pages)] = slots[list(from_slots)].to(pages.device)
            if copies.saves:
                from_pages, to_slots = zip(*copies.saves, strict=True)
                slots[list(to_slots)] = pages[list(from_pages)].to(slots.device)

    def export(self, places: Sequence[tuple[int, int]]) -> PageImages:
        """Copies of (page, slot): the page, or the slot where the page is -1."""
        copies = []
        for pages, slots in zip(self._kv.parts, self.parts, strict=True):
            copy = torch.empty((len(places), *pages.shape[1:]), dtype=pages.dtype)
            for row, (page_id, slot) in zip(copy, places, strict=True):
                row.copy_(pages[page_id] if page_id >= 0 else slots[slot])
            copies.append(copy)
        return PageImages(copies)

    def import_(self, places: Sequence[tuple[int, int]], images: Sequence[bytes]) -> None:
        """Write what `export` has copied to other pages or slots."""
        for (page_id, slot), image in zip(places, images, strict=True):
            parts, at = (self._kv.parts, page_id) if page_id >= 0 else (self.parts, slot)
            for part, content in zip(parts, split_image(image, self._kv.parts), strict=True):
                part[at].copy_(content)
