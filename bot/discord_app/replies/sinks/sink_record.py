"""The delivery record of one reply while its messages are shown, and the check that this process still owns it.

Knows the delivery log; knows nothing of Discord's API.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from bot.chat.turns.deliveries import DeliveryLog
from bot.chat.turns.waiting_record import WaitingRecord
from bot.discord_app.message_sink import DeliveryTaken

_CHECK_AFTER = 3.0
"""Seconds after which a process checks that it still owns a delivery; shorter than its lease."""


class SinkRecord:
    """The record of one reply. `ids`: its messages, by their position, as the sink knows them.

    `is_open`: whether another process may take the delivery; a reply that is shown once more has a closed one.
    """

    def __init__(
        self,
        deliveries: DeliveryLog,
        ids: Mapping[int, int],
        *,
        is_open: bool,
        on_waiting: Callable[[], Awaitable[int]] | None = None,
        waiting: WaitingRecord | None = None,
    ) -> None:
        """`on_waiting`: called before a place in line is shown; returns the record of it, 0 if there is none.

        `waiting`: a record that exists already; its maker ends it.
        """
        self.delivery_id = 0
        """0 until the turn has begun, and where nothing is recorded."""
        self._deliveries = deliveries
        self._ids = ids
        self._is_open = is_open
        self._on_waiting = on_waiting
        self._waiting = waiting
        self._waiting_id = 0
        self._unrecorded: set[int] = set()
        self._recording: asyncio.Task[None] | None = None
        self._checked_at = time.monotonic()

    def begin(self, delivery_id: int) -> None:
        """The turn is stored, and the record of what is shown exists."""
        self._on_waiting = None
        self._is_open = True
        self.delivery_id = delivery_id
        if self._waiting is not None:
            self._waiting.begun(delivery_id)
        if self._waiting_id == delivery_id:
            self._waiting_id = 0  # it has a turn now
        self._record_soon()

    async def check_owner(self) -> None:
        """Raise DeliveryTaken if another process shows this by now: this one may have been frozen for minutes."""
        if not self._is_open or time.monotonic() - self._checked_at < _CHECK_AFTER:
            return
        if not await self._deliveries.is_own(self.delivery_id):
            raise DeliveryTaken("another process took this one for dead")
        self._checked_at = time.monotonic()

    async def before_live(self) -> None:
        """Record a message that says it waits, before its turn has begun: a crash must not leave that on the screen."""
        if self._waiting is not None and not self.delivery_id:
            recorded = await self._waiting.delivery_id()
            self.delivery_id = self.delivery_id or recorded
        if (record := self._on_waiting) is None:
            return
        self._on_waiting = None
        self._waiting_id = await record()
        if self._is_open:  # the turn has begun meanwhile
            await self.end_waiting()
        else:
            self.delivery_id = self._waiting_id

    async def end_waiting(self) -> None:
        """Nothing waits any more: remove the record of it, if no turn took it over."""
        await self.settled()
        waiting_id, self._waiting_id, self._on_waiting = self._waiting_id, 0, None
        await self._deliveries.waits_no_more(waiting_id)

    def sent_live(self, index: int) -> None:
        """A message was sent whose text still grows: its id is recorded, once there is a record.

        The reply does not wait for that. After a crash in between, another process finds the message: see `sender`.
        """
        self._unrecorded.add(index)
        self._record_soon()

    async def settled(self) -> None:
        """Wait until the ids sent so far are recorded, so that a later record is not overwritten by an older one."""
        if self._recording is not None:
            await asyncio.wait([self._recording])

    def _record_soon(self) -> None:
        is_running = self._recording is not None and not self._recording.done()
        if self._unrecorded and self.delivery_id and not is_running:
            self._recording = asyncio.create_task(self._record(), name="record-messages")

    async def _record(self) -> None:
        while self.delivery_id and self._unrecorded:
            index = self._unrecorded.pop()
            if (message_id := self._ids.get(index)) is not None:
                await self._deliveries.sent(self.delivery_id, index, message_id)
