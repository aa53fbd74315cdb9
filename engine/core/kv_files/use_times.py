"""When pages were used last: the cache's logical clock beside wall-clock time, for as far back as pages are kept.

It knows numbers only.
"""

from bisect import bisect_left
from collections.abc import Iterable


class UseTimes:
    """Readings of both clocks, the oldest first. Wall-clock times never go back in it."""

    def __init__(self, times: Iterable[float] = ()) -> None:
        """`times`: of pages that were used before; the logical clock has passed one tick for each of them."""
        self._times = sorted(set(times))
        self._clocks = list(range(len(self._times)))

    def __len__(self) -> int:
        return len(self._times)

    def clock_at(self, time: float) -> int:
        """The logical time of a reading, or of the next one after it. There must be one."""
        return self._clocks[bisect_left(self._times, time)]

    def time_at(self, clock: int, now: float) -> float:
        """About when it was: rather too late than too early. `now`, after the last reading."""
        index = bisect_left(self._clocks, clock)
        return self._times[index] if index < len(self._times) else now

    def read(self, clock: int, now: float) -> None:
        """Both clocks now."""
        if not self._clocks or clock > self._clocks[-1]:
            self._clocks.append(clock)
            self._times.append(max([now, *self._times[-1:]]))

    def forget(self, before: float) -> int | None:
        """Forget the readings from before this time; returns the logical time of the last one of them."""
        count = bisect_left(self._times, before)
        if not count:
            return None
        last = self._clocks[count - 1]
        del self._times[:count], self._clocks[:count]
        return last
