"""How many requests one server takes at once, as far as that is known, and whether one more finds room now.

Three sources: what the server states (slots), what its load shows (while requests wait, as many run as can), and its
refusals (429). The last is learnt in our own requests: as many as were under way fit, and one more is tried after as
many replies as that. Nothing is refused here: a number that is too low only makes requests look elsewhere first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds for which a server is taken to be full after a 429 without or with Retry-After."""
_FORGET = 600.0
"""Seconds after which a 429 says nothing any more."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a server says of its requests, from whichever client they are."""

    running: int
    waiting: int
    slots: int | None = None
    """How many it runs at once, where it says so."""


class Room:
    """The room at one server. `num_in_flight` counts this process's requests there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.num_in_flight = 0
        self._stated: int | None = None
        self._shown: int | None = None
        self._learnt: float | None = None
        self._refused_at = self._full_until = 0.0
        self._num_others = 0
        """Requests of other clients at the last report."""

    @property
    def limit(self) -> int | None:
        """Requests at once; None: not known."""
        if self._learnt is not None and self._clock() - self._refused_at > _FORGET:
            self._learnt = None
        numbers = (self._stated, self._shown, None if self._learnt is None else int(self._learnt) + self._num_others)
        return min((number for number in numbers if number is not None), default=None)

    @property
    def has_room(self) -> bool:
        """Whether one more request would begin at once, as far as that is known."""
        if self._clock() < self._full_until:
            return False
        limit = self.limit
        return limit is None or self.num_in_flight + self._num_others < limit

    def begin(self) -> None:
        """One request more is under way."""
        self.num_in_flight += 1

    def end(self, *, answered: bool = False) -> None:
        """One request fewer. `answered`: the server took it and wrote all of it."""
        if answered and self._learnt is not None and self.num_in_flight >= int(self._learnt):
            self._learnt += 1 / max(1.0, self._learnt)
        self.num_in_flight -= 1

    def refused(self, retry_after: float | None) -> None:
        """The server said 429 to a request that is counted as under way."""
        now = self._clock()
        self._learnt, self._refused_at = float(max(1, self.num_in_flight - 1)), now
        self._full_until = now + min(_LONGEST_PAUSE, retry_after or _PAUSE)

    def report(self, load: Load | None) -> None:
        """What the server says now; None: it says nothing."""
        if load is None:
            self._stated = self._shown = None
            self._num_others = 0
            return
        self._stated = load.slots
        self._num_others = max(0, load.running + load.waiting - self.num_in_flight)
        if load.waiting > 0:
            self._shown = max(1, load.running)
        elif self._shown is not None and load.running >= self._shown:
            self._shown = None  # it runs as many as ever, and none waits: the limit is higher
