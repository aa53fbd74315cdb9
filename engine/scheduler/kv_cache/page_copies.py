"""Copies of whole pages between the device and the host, as plain data. A plan carries them to every rank."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PageCopies:
    """What happens to whole pages of the device and slots of the host, in the order of the fields.

    A runner may do it beside its steps: what a plan restores is read by later plans only, and what it saves was written
    by earlier ones.
    """

    overwritten_pages: tuple[int, ...] = ()  # with zeros
    overwritten_slots: tuple[int, ...] = ()
    restores: tuple[tuple[int, int], ...] = ()  # (slot, page)
    saves: tuple[tuple[int, int], ...] = ()  # (page, slot)

    def __bool__(self) -> bool:
        return bool(self.overwritten_pages or self.overwritten_slots or self.restores or self.saves)


NO_COPIES: Final = PageCopies()
