"""The size of prompt that a server takes, learnt from refusals that name no number of tokens. Forgotten after a while.

Without it each turn of a long dialog would be refused several times anew. The size between the largest that was taken
and the smallest that was refused is halved with each turn, so a turn is refused once at most, and soon not at all.
Knows sizes in bytes, and no server.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FORGET_AFTER = 900.0  # seconds after the last refusal: the server may have been restarted with a larger context
_CLOSE = 1.2
"""A size that was refused this close to one that was taken is not approached any further."""


class WorkingSize:
    """What one server took and refused lately."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._accepted = 0
        self._refused: int | None = None
        self._until = 0.0

    def limit(self, size: int) -> float | None:
        """The size to send instead of `size`, or None if nothing speaks against it."""
        if self._refused is None or self._now() >= self._until:
            self._accepted, self._refused = 0, None
            return None
        if size < self._refused and (size <= self._accepted or self._refused > self._accepted * _CLOSE):
            return None
        return self._accepted if self._refused <= self._accepted * _CLOSE else (self._accepted + self._refused) / 2

    @property
    def accepted_size(self) -> int:
        """The largest size that was accepted since the first refusal; 0 if none was."""
        return self._accepted

    def refused(self, size: int) -> None:
        """A prompt of this size was too long."""
        self._until = self._now() + FORGET_AFTER
        self._refused = size if self._refused is None else min(size, self._refused)
        if self._accepted >= size:  # it has more tokens to a byte
            self._accepted = 0

    def accepted(self, size: int) -> None:
        """A prompt of this size was accepted."""
        if self._refused is None:
            return
        self._accepted = max(self._accepted, size)
        if self._accepted >= self._refused:  # it has fewer tokens to a byte; a refusal will tell
            self._accepted = self._refused - 1
