"""One lock per dialog, served in the order of arrival. A key that nobody holds or waits for takes no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class KeyedLocks(Generic[Key]):
    def __init__(self) -> None:
        self._locks: dict[Key, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    def queued(self, key: Key) -> int:
        """How many hold or wait for this key."""
        return self._locks[key][1] if key in self._locks else 0

    @asynccontextmanager
    async def hold(self, key: Key) -> AsyncIterator[None]:
        """Wait for one's turn (asyncio.Lock is first come, first served), hold it, give it on."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
