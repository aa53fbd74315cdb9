"""Cooldowns for what the bot says unasked: once an interval for each key, however often there is a reason for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_MAX_REMEMBERED = 10_000
K = TypeVar("K", bound=Hashable)


class Cooldowns(Generic[K]):
    """A cooldown for each key, such as a channel or a member. `interval`: in seconds of the clock."""

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._said_at: dict[K, float] = {}

    def is_due(self, key: K) -> bool:
        """Whether this key's cooldown is over; then it begins anew."""
        now = self._clock()
        if now - self._said_at.get(key, -self._interval) < self._interval:
            return False
        self._said_at.pop(key, None)  # so that the oldest stays first
        self._said_at[key] = now
        if len(self._said_at) > _MAX_REMEMBERED:
            del self._said_at[next(iter(self._said_at))]
        return True
