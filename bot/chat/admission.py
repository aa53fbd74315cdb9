"""Who may wait for a reply: a bounded number in all, and of one dialog a part of that.

A message waits until its first token is there. Beyond the bound the answer is Busy, at once and before anything is
stored. The bound per dialog keeps one busy member from taking every place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from bot.errors import Busy

_SHARE = 4  # of all places, one dialog may hold one in so many


class Place:
    """One message's place in the queue, given up at its first token or at its end."""

    def __init__(self, admission: Admission, key: Hashable) -> None:
        self._admission: Admission | None = admission
        self._key = key

    def leave(self) -> None:
        if self._admission is not None:
            self._admission.left(self._key)
            self._admission = None


class Admission:
    def __init__(self, places: int) -> None:
        self.places = places
        self.total = 0
        self.waiting: Counter[Hashable] = Counter()

    @contextmanager
    def enter(self, key: Hashable) -> Iterator[Place]:
        if self.total >= self.places or self.waiting[key] >= max(1, self.places // _SHARE):
            raise Busy()
        self.total += 1
        self.waiting[key] += 1
        place = Place(self, key)
        try:
            yield place
        finally:
            place.leave()

    def left(self, key: Hashable) -> None:
        self.total -= 1
        self.waiting[key] -= 1
        if self.waiting[key] == 0:
            del self.waiting[key]
