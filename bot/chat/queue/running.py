"""How many replies are under way at once, of each member and each guild. More messages wait here for their turn.

They wait before anything of theirs is stored or sent to the engine, so one guild's flood neither fills the database's
queue nor the engine's. Knows keys; knows nothing of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

Most = int | Callable[[], int | None] | None
"""The most replies of a key at once, or what tells it whenever it is asked; None: any number."""


class Place:
    """A reply's place among those of its keys, taken or waited for."""

    def __init__(self, running: RunningReplies, needs: tuple[tuple[Hashable, Most], ...]) -> None:
        self.needs = needs
        self.ready = asyncio.Event()
        self._running = running

    def release(self) -> None:
        """Give the place to another reply. Idempotent."""
        self._running.release(self)


class RunningReplies:
    """Counts replies by any number of keys each."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()
        self._held: set[Place] = set()
        self._waiting: dict[Place, None] = {}

    def count(self, key: Hashable) -> int:
        """How many replies of this key are under way now."""
        return self._counts[key]

    @property
    def total(self) -> int:
        """How many replies are under way, of all keys."""
        return len(self._held)

    async def take(self, *needs: tuple[Hashable, Most], look_again: float | None = None) -> Place:
        """Wait until one more reply of each of these keys may begin, in order of arrival, and count it.

        `look_again`: seconds after which numbers that are asked for may have changed by themselves.
        """
        place = Place(self, needs)
        self._waiting[place] = None
        self._wake()
        try:
            while not place.ready.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(look_again):
                        await place.ready.wait()
                self._wake()
        except BaseException:
            self.release(place)
            raise
        return place

    @asynccontextmanager
    async def hold(self, *needs: tuple[Hashable, Most]) -> AsyncIterator[None]:
        """The same for the time of the block."""
        place = await self.take(*needs)
        try:
            yield
        finally:
            place.release()

    def release(self, place: Place) -> None:
        """Give a place back, or wait no more for it."""
        self._waiting.pop(place, None)
        if place in self._held:
            self._held.discard(place)
            for key, _ in place.needs:
                self._counts[key] -= 1
                if self._counts[key] <= 0:
                    del self._counts[key]
        self._wake()

    def _wake(self) -> None:
        """Let those begin that may. One that may not keeps no other one waiting: it lacks its own keys' places."""
        for place in list(self._waiting):
            if all(self._has_room(key, most) for key, most in place.needs):
                del self._waiting[place]
                self._held.add(place)
                self._counts.update(key for key, _ in place.needs)
                place.ready.set()

    def _has_room(self, key: Hashable, most: Most) -> bool:
        limit = most() if callable(most) else most
        return limit is None or self._counts[key] < limit
