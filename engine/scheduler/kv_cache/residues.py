"""Whose keys and values are left in which page and slot, so that they can be overwritten when a tenant is erased.

A page that was freed keeps its bytes until it is written again, and a request often fills only a part of its last page.
No request ever reads what it has not written or found in its own trie, so this matters only to an erasure.

It knows numbers and tenants. It does not know which pages are free.
"""

from collections.abc import Iterable


class Residues:
    """The tenants with bytes in each page or slot, by its number."""

    def __init__(self) -> None:
        self._tenants: dict[int, tuple[str, ...]] = {}
        self._overwrite_on_release: set[int] = set()

    def write(self, number: int, tenant: str) -> None:
        """A part of the page will be written for a tenant; the rest stays what it was."""
        present = self._tenants.get(number, ())
        if tenant not in present:
            self._tenants[number] = (*present, tenant)

    def fill(self, number: int, tenant: str) -> None:
        """The whole page or slot will be written for a tenant."""
        self._tenants[number] = (tenant,)

    def of(self, tenant: str) -> list[int]:
        """The pages or slots with bytes of a tenant, ascending."""
        return sorted(number for number, tenants in self._tenants.items() if tenant in tenants)

    def overwrite_on_release(self, numbers: Iterable[int]) -> None:
        """These must be overwritten when they are released next."""
        self._overwrite_on_release.update(numbers)

    def is_overwritten_on_release(self, number: int) -> bool:
        """Whether the page, which is released now, must be overwritten; then nothing will be left in it."""
        if number not in self._overwrite_on_release:
            return False
        self._overwrite_on_release.discard(number)
        self._tenants.pop(number, None)
        return True

    def overwrite(self, number: int) -> None:
        """A free page or slot will be overwritten."""
        self._tenants.pop(number, None)
