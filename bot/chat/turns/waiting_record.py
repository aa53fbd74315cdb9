"""The record of a question that has no turn yet, written before it is acknowledged.

A process that dies between the acknowledgement and the begin transaction then leaves a row from which another one tells
the member that the question was lost. The begin transaction takes the row over (models/queries/replies/deliveries.py).
Knows the delivery log; knows nothing of Discord.
"""

from __future__ import annotations

import asyncio

import structlog

from bot.chat.turns.deliveries import DeliveryLog
from models.types import DialogKey, Place

log = structlog.get_logger(__name__)


class WaitingRecord:
    """The record of one question. It is being written from the moment this is made."""

    def __init__(self, deliveries: DeliveryLog, key: DialogKey, place: Place) -> None:
        self._deliveries = deliveries
        self._writing = asyncio.create_task(self._write(key, place), name="waiting-record")
        self._turns_delivery = 0

    async def _write(self, key: DialogKey, place: Place) -> int:
        try:
            return await self._deliveries.waiting(key, place)
        except Exception:
            log.exception("a question could not be recorded, and is answered all the same")
            return 0

    async def written(self, *, within: float) -> bool:
        """Whether it is written after `within` seconds at most. It goes on being written all the same."""
        if within > 0:
            await asyncio.wait((self._writing,), timeout=within)
        return self._writing.done()

    async def delivery_id(self) -> int:
        """The row, once it is written; 0 if nothing is recorded."""
        return await asyncio.shield(self._writing)

    def begun(self, delivery_id: int) -> None:
        """The turn has begun with this delivery: the record's own row, unless that was written too late."""
        self._turns_delivery = delivery_id

    async def end(self) -> None:
        """The question has its answer, or was refused: remove the row, if no turn took it over."""
        if self._writing.done():
            await self._remove()
        else:  # the database is slow, and an answer must not wait for it
            self._deliveries.later(self._remove())

    async def _remove(self) -> None:
        delivery_id = await self._writing
        if delivery_id != self._turns_delivery:
            await self._deliveries.waits_no_more(delivery_id)
