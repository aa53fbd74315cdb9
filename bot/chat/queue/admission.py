"""Admission control: limits how many messages wait for their first token, in all and for one member.

Over the limit a message is refused at once with Busy, before anything is stored. The limit per member keeps one busy
member from filling the queue. The slots are kept in order of arrival: a message's place in line is its slot's.
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

    def __init__(self, admission: AdmissionControl, key: Hashable, dialog: Hashable) -> None:
        self._admission = admission
        self.key = key
        self.dialog = dialog

    def release(self) -> None:
        """Let another message in. Idempotent."""
        self._admission.release(self)

    def line(self) -> tuple[Hashable, ...]:
        """The dialogs of the messages that wait, from the first one up to this one; () once this one waits no more."""
        return self._admission.line(self)


class AdmissionControl:
    """The messages that wait, in order of arrival, counted in all and by key."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._max_per_key = max(1, max_waiting // _MAX_SHARE)
        self._slots: dict[Slot, None] = {}
        self._by_key: Counter[Hashable] = Counter()

    @contextmanager
    def admit(self, key: Hashable, dialog: Hashable = None) -> Iterator[Slot]:
        """Take a slot, which is released at the latest when the block ends. Raises Busy if this key can have none."""
        if len(self._slots) >= self._max_waiting or self._by_key[key] >= self._max_per_key:
            raise Busy()
        slot = Slot(self, key, dialog)
        self._slots[slot] = None
        self._by_key[key] += 1
        try:
            yield slot
        finally:
            slot.release()

    def release(self, slot: Slot) -> None:
        """Give a slot back, unless that was done before."""
        if slot not in self._slots:
            return
        del self._slots[slot]
        self._by_key[slot.key] -= 1
        if self._by_key[slot.key] == 0:
            del self._by_key[slot.key]

    def line(self, slot: Slot) -> tuple[Hashable, ...]:
        """The dialogs of the messages that wait, up to this slot; () if it was released."""
        if slot not in self._slots:
            return ()
        slots = list(self._slots)
        return tuple(each.dialog for each in slots[: slots.index(slot) + 1])
