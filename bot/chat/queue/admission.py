"""Admission control: limits how many messages wait for their first token, in all, for one member and for one guild.

Over the limit a message is refused at once with Busy, before anything is stored. One member may hold a quarter of the
places, and no more than that. One guild may hold all of them while no other one needs any; so that its flood refuses
nobody elsewhere, a few more places are kept for guilds that hold less than their fair share. The slots are kept in
order of arrival: a message's place in line is its slot's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from bot.errors import Busy
from bot.telemetry.metrics import WAITING

_MAX_SHARE = 4
"""One member may have a quarter of all slots, and a quarter more are kept for guilds with less than their share."""


class Slot:
    """One message's slot, released at its first token or at its end."""

    def __init__(
        self,
        admission: AdmissionControl,
        key: Hashable,
        dialog: Hashable,
        guild: Hashable,
        asked_by: int | None,
        lane: tuple[str, int],
    ) -> None:
        self._admission = admission
        self.key = key
        self.dialog = dialog
        self.guild = guild
        self.asked_by = asked_by
        """The interaction or message that asked."""
        self.lane = lane
        """The server that the message waits for: those that wait for another one are not in its way."""

    def release(self) -> None:
        """Let another message in. Idempotent."""
        self._admission.release(self)

    def line(self) -> tuple[Hashable, ...]:
        """The dialogs of the messages that wait, from the first one up to this one; () once this one waits no more."""
        return self._admission.line(self)


class AdmissionControl:
    """The messages that wait, in order of arrival, counted in all, by member and by guild."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._max_per_key = max(1, max_waiting // _MAX_SHARE)
        self._max_with_kept = max_waiting + max(1, max_waiting // _MAX_SHARE)
        self._slots: dict[Slot, None] = {}
        self._by_key: Counter[Hashable] = Counter()
        self._by_guild: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        """How many messages wait in all."""
        return len(self._slots)

    def of(self, key: Hashable) -> tuple[Slot, ...]:
        """The slots of one member, the first one first."""
        return tuple(slot for slot in self._slots if slot.key == key)

    @contextmanager
    def admit(
        self,
        key: Hashable,
        dialog: Hashable = None,
        *,
        guild: Hashable = None,
        asked_by: int | None = None,
        lane: tuple[str, int] = ("", 0),
    ) -> Iterator[Slot]:
        """Take a slot, which is released at the latest when the block ends. Raises Busy if this key can have none.

        `guild`: the guild, or what counts as one, such as a person in direct messages.
        """
        if self._by_key[key] >= self._max_per_key or not self._has_room(guild):
            raise Busy()
        slot = Slot(self, key, dialog, guild, asked_by, lane)
        self._slots[slot] = None
        self._by_key[key] += 1
        self._by_guild[guild] += 1
        WAITING.inc()
        try:
            yield slot
        finally:
            slot.release()

    def release(self, slot: Slot) -> None:
        """Give a slot back, unless that was done before."""
        if slot not in self._slots:
            return
        del self._slots[slot]
        WAITING.dec()
        for counts, key in ((self._by_key, slot.key), (self._by_guild, slot.guild)):
            counts[key] -= 1
            if counts[key] == 0:
                del counts[key]

    def line(self, slot: Slot) -> tuple[Hashable, ...]:
        """The dialogs of the messages that wait for the same server, up to this slot; () if it was released."""
        if slot not in self._slots:
            return ()
        slots = [each for each in self._slots if each.lane == slot.lane]
        return tuple(each.dialog for each in slots[: slots.index(slot) + 1])

    def _has_room(self, guild: Hashable) -> bool:
        if len(self._slots) < self._max_waiting:
            return True
        share = self._max_waiting // len({*self._by_guild, guild})
        return len(self._slots) < self._max_with_kept and self._by_guild[guild] < share
