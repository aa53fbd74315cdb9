"""Admission control: limits how many messages wait for their first token, in all and for one member.

Over the limit a message is refused at once with Busy, before anything is stored. The limit per member keeps one busy
member from filling the queue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from bot.errors import Busy

_MAX_SHARE = 4
"""One member may have a quarter of all slots."""


class Slot:
    """One message's slot, released at its first token or at its end."""

    def __init__(self, admission: AdmissionControl, key: Hashable) -> None:
        self._admission: AdmissionControl | None = admission
        self._key = key

    def release(self) -> None:
        """Let another message in. Idempotent."""
        if self._admission is not None:
            self._admission.release(self._key)
            self._admission = None


class AdmissionControl:
    """Counts the messages that wait, in all and by key."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._max_per_key = max(1, max_waiting // _MAX_SHARE)
        self._total = 0
        self._by_key: Counter[Hashable] = Counter()

    @contextmanager
    def admit(self, key: Hashable) -> Iterator[Slot]:
        """Take a slot, which is released at the latest when the block ends. Raises Busy if this key can have none."""
        if self._total >= self._max_waiting or self._by_key[key] >= self._max_per_key:
            raise Busy()
        self._total += 1
        self._by_key[key] += 1
        slot = Slot(self, key)
        try:
            yield slot
        finally:
            slot.release()

    def release(self, key: Hashable) -> None:
        """Give one slot of this key back."""
        self._total -= 1
        self._by_key[key] -= 1
        if self._by_key[key] == 0:
            del self._by_key[key]
