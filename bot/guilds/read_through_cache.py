"""A read-through cache: values of the database that are used for a while, with one read for all who ask at once.

A read that began before a change of its key is not kept: it may be older than the change. Knows keys and values, and
not what they mean; another process's changes are seen once a value is not fresh any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from bot.keyed_locks import KeyedLocks

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ReadThroughCache(Generic[K, V]):
    """The values of one kind, the last used ones."""

    def __init__(
        self, read: Callable[[K], Coroutine[Any, Any, V]], *, fresh_for: Callable[[V], float], max_entries: int = 10_000
    ) -> None:
        """`read`: a value from the database; all who wait for it get what it raises. `fresh_for`: in seconds."""
        self._read = read
        self._fresh_for = fresh_for
        self._max_entries = max_entries
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        """When each value was read, and the value; the one that was kept last at the end."""
        self._reading: dict[K, asyncio.Task[V]] = {}
        """The reads whose values will be kept."""
        self._changing: KeyedLocks[K] = KeyedLocks()

    def last_known(self, key: K) -> V | None:
        """The value, however old, or None. Never waits."""
        found = self._entries.get(key)
        return None if found is None else found[1]

    def fresh(self, key: K) -> V | None:
        """The value, or None if the database has to be read. Never waits."""
        return self.last_known(key) if self._is_fresh(key) else None

    async def get(self, key: K) -> V:
        """The value, from the database if it is not fresh.

        Concurrent callers share one read and continue in the order of their calls. A caller that is cancelled does not
        end the read.
        """
        return self._entries[key][1] if self._is_fresh(key) else await asyncio.shield(self.refresh(key))

    async def read(self, key: K) -> V:
        """The value as the database has it now."""
        self.outdate(key)
        return await asyncio.shield(self.refresh(key))

    def refresh(self, key: K) -> asyncio.Task[V]:
        """The read of this key that is under way, or a new one."""
        if (reading := self._reading.get(key)) is None:
            reading = self._reading[key] = asyncio.create_task(self._read(key), name="read-through")
            reading.add_done_callback(lambda done: self._end_read(key, done))
        return reading

    async def change(self, key: K, store: Callable[[], Awaitable[V]]) -> V:
        """Store another value of this key and keep what `store` returns; one change of a key at a time.

        If `store` raises an error, the value is read again when it is needed.
        """
        async with self._changing.hold(key):  # so that the last one stored is the one kept
            try:
                after = await store()
            except BaseException:
                self.outdate(key)
                self._entries.pop(key, None)
                raise
            self.keep(key, after)
        return after

    def keep(self, key: K, value: V) -> None:
        """Keep a value that the database has."""
        self.outdate(key)
        self._entries[key] = (time.monotonic(), value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def outdate(self, key: K) -> None:
        """Do not keep the value of a read that is under way. What is known is used for as long as before."""
        self._reading.pop(key, None)

    def _is_fresh(self, key: K) -> bool:
        if (found := self._entries.get(key)) is None:
            return False
        read_at, value = found
        return time.monotonic() - read_at < self._fresh_for(value)

    def _end_read(self, key: K, done: asyncio.Task[V]) -> None:
        failed = (
            done.cancelled() or done.exception() is not None
        )  # those who wait report it; perhaps none does any more
        if self._reading.get(key) is not done:
            return
        if failed:
            self.outdate(key)
        else:
            self.keep(key, done.result())
