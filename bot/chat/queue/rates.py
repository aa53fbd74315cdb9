"""How many messages came in the last minute, of each member and each guild: token buckets.

A bucket is as large as the number that is allowed in a minute and fills evenly: a minute's messages may come at once,
and after that one comes back at a time. Kept in memory, so each process counts what it hears, and a restart begins
with full buckets; one that is full again takes no memory. Pure arithmetic on a clock that is passed in.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

_MINUTE = 60.0
_MAX_KEYS = 50_000


class Buckets:
    """One bucket for each key that has sent something lately. What is missing in it is kept, not what is left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missing: OrderedDict[Hashable, tuple[float, float, float]] = OrderedDict()
        """How much is missing in each bucket, when that was so, and when it is full again; used last at the end."""

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._missing)

    def left(self, key: Hashable, limit: int) -> int:
        """How many messages may come now."""
        return max(0, math.floor(limit - self._now_missing(key, limit) + 1e-9))

    def seconds_until(self, key: Hashable, limit: int, count: int = 1) -> float:
        """Seconds until `count` messages may come; 0.0 if they may now."""
        too_few = self._now_missing(key, limit) + count - limit
        return max(0.0, too_few * _MINUTE / limit) if too_few > 1e-9 else 0.0

    def take(self, key: Hashable, limit: int) -> None:
        """Count one message. Below zero if there was none left: then the next ones have to wait for it as well."""
        missing, now = self._now_missing(key, limit) + 1, self._clock()
        self._missing[key] = (missing, now, now + missing * _MINUTE / limit)
        self._missing.move_to_end(key)
        self._forget_full(now)

    def _forget_full(self, now: float) -> None:
        """Forget the buckets that are full again, from the one that was used longest ago to the first that is not."""
        while self._missing:
            _, _, full_at = next(iter(self._missing.values()))
            if full_at > now and len(self._missing) <= _MAX_KEYS:
                return
            self._missing.popitem(last=False)

    def _now_missing(self, key: Hashable, limit: int) -> float:
        if (found := self._missing.get(key)) is None:
            return 0.0
        missing, at, _ = found
        return max(0.0, missing - max(0.0, self._clock() - at) * limit / _MINUTE)
