"""Copies of whole pages, on the device, to the host and back, as plain data. A plan carries them to every rank."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PageCopies:
    """What happens to whole pages of the device and slots of the host, in the order of the fields.

    A runner may do it beside its steps: what a plan restores is read by later plans only, and what it saves was written
    by earlier ones. Duplicates are an exception: the plan's own step reads them.
    """

    duplicates: tuple[tuple[int, int], ...] = ()  # (page, page): from one that holds the beginning of the other
    overwritten_pages: tuple[int, ...] = ()  # with zeros
    overwritten_slots: tuple[int, ...] = ()
    restores: tuple[tuple[int, int], ...] = ()  # (slot, page)
    saves: tuple[tuple[int, int], ...] = ()  # (page, slot)

    def __bool__(self) -> bool:
        return bool(self.duplicates or self.overwritten_pages or self.overwritten_slots or self.restores or self.saves)


NO_COPIES: Final = PageCopies()
