"""Which pages and which slots are free, by number. Neighbours in number are neighbours in memory."""

from bisect import bisect_left, insort
from collections.abc import Iterator


class FreeList:
    """Ascending numbers, so that what is taken together tends to be neighbours."""

    def __init__(self, count: int) -> None:
        self._numbers = list(range(count))

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def take(self, preferred: int) -> int:
        """A free number, if possible `preferred` or the next one above it. There must be one."""
        at = bisect_left(self._numbers, preferred)
        return self._numbers.pop(at if at < len(self._numbers) else 0)

    def release(self, number: int) -> None:
        """The number is free again."""
        insort(self._numbers, number)


class FreeSlots:
    """Numbers that were used before are taken first, then new ones in ascending order. No call depends on how many."""

    def __init__(self) -> None:
        self._used_before: dict[int, None] = {}
        self._next = self._end = 0  # of the new ones

    def __len__(self) -> int:
        return len(self._used_before) + self._end - self._next

    def __contains__(self, number: int) -> bool:
        return number in self._used_before or self._next <= number < self._end

    def __iter__(self) -> Iterator[int]:
        yield from self._used_before
        yield from range(self._next, self._end)

    def grow(self, end: int) -> None:
        """Numbers below `end` exist from now on, and those that did not are free."""
        self._end = max(self._end, end)

    def take(self) -> int:
        """A free number. There must be one."""
        if self._used_before:
            return self._used_before.popitem()[0]
        self._next += 1
        return self._next - 1

    def release(self, number: int) -> None:
        """The number is free again."""
        self._used_before[number] = None

    def remove(self, number: int) -> None:
        """Take this number, which was used before and is free. Raises KeyError."""
        del self._used_before[number]
