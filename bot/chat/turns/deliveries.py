"""Records what of a reply has been shown, so that another process can show the rest after a crash.

Never raises: a reply that is on the screen must not fail because this could not be recorded. What could not is kept and
tried again. Knows the queries; knows nothing of Discord.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from models.database import Database, Work
from models.errors import DatabaseError
from models.queries.replies.deliveries import begin_waiting, end_waiting, reopen_delivery
from models.queries.replies.delivery_messages import (
    message_attempted,
    message_sent,
    messages_shown,
    recorded_messages,
    spoken_through,
)
from models.queries.replies.unfinished_deliveries import owns_delivery, release_delivery
from models.types import DialogKey, Place, TurnInfo

log = structlog.get_logger(__name__)

_MAX_KEPT = 10_000


class DeliveryLog:
    """The record of all deliveries of this process. A delivery id of 0 stands for one that is not recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: OrderedDict[tuple[int, int], Work[None]] = OrderedDict()
        self._count = 0
        self._late: set[asyncio.Task[None]] = set()

    async def waiting(self, key: DialogKey, place: Place, turn: TurnInfo | None = None) -> int:
        """A message is about to say that it waits: return its record, 0 if there is none.

        `turn`: the one whose reply it showed until now, which it shows again should this process die.
        """
        now = datetime.now(UTC)
        try:
            if turn is None:
                return await self._database.run(
                    lambda session: begin_waiting(session, key=key, place=place, now=now), brief=True
                )
            await self._database.run(
                lambda session: reopen_delivery(
                    session, key=turn.key, turn_id=turn.turn_id, place=place, in_place=True, now=now
                ),
                brief=True,
            )
        except DatabaseError as error:
            log.warning("a message that waits could not be recorded", error=type(error).__name__)
        return 0

    async def waits_no_more(self, delivery_id: int) -> None:
        """The message has been answered otherwise, without a turn."""
        await self._run(delivery_id, lambda session: end_waiting(session, delivery_id=delivery_id))

    def later(self, work: Coroutine[object, object, None]) -> None:
        """Do this in the background: nobody waits for it."""
        task = asyncio.create_task(work, name="late-record")
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def attempted(self, delivery_id: int, position: int) -> None:
        """A message is about to be sent, of a reply that is still growing."""
        await self._run(
            delivery_id, lambda session: message_attempted(session, delivery_id=delivery_id, position=position)
        )

    async def recorded(self, message_ids: Sequence[int]) -> frozenset[int]:
        """Which of these messages on Discord belong to a delivery. Raises DatabaseError."""
        if not message_ids:
            return frozenset()
        async with self._database.read() as session:
            return await recorded_messages(session, message_ids=message_ids)

    async def is_own(self, delivery_id: int) -> bool:
        """Whether this process is still the one that shows it. Yes where that cannot be found out."""
        if not delivery_id:
            return True
        try:
            async with self._database.read() as session:
                return await owns_delivery(session, delivery_id=delivery_id)
        except DatabaseError as error:
            log.info("whose a delivery is could not be read", delivery=delivery_id, error=type(error).__name__)
            return True

    async def sent(self, delivery_id: int, position: int, message_id: int) -> None:
        """A message exists now; its text is still growing."""
        await self._run(
            delivery_id,
            lambda session: message_sent(session, delivery_id=delivery_id, position=position, message_id=message_id),
        )

    async def spoken_through(self, delivery_id: int, place: Place) -> None:
        """The messages are sent through the webhook of this place, or by the bot itself, from now on."""
        await self._run(
            delivery_id,
            lambda session: spoken_through(
                session, delivery_id=delivery_id, webhook_id=place.webhook_id, name=place.webhook_name
            ),
        )

    async def shown(self, delivery_id: int, shown: Sequence[tuple[int, int | None]], *, done: bool) -> None:
        """Messages (position, id) show their final text, or were deleted (id None). `done`: there are no others."""
        await self._run(
            delivery_id,
            lambda session: messages_shown(session, delivery_id=delivery_id, shown=shown, done=done),
        )

    async def release(self, delivery_id: int) -> bool:
        """The rest could not be shown now: leave it to the job that looks for unfinished deliveries.

        False if it has been tried often enough.
        """
        now = datetime.now(UTC)
        more = True

        async def work(session: Any) -> None:
            nonlocal more
            more = await release_delivery(session, delivery_id=delivery_id, now=now)

        await self._run(delivery_id, work)
        return more

    async def retry(self) -> None:
        """Record what could not be recorded before. Raises DatabaseError; what is left stays for later."""
        while self._kept:
            identity, work = next(iter(self._kept.items()))
            await self._database.run(work)
            self._kept.pop(identity, None)

    async def _run(self, delivery_id: int, work: Work[None]) -> None:
        if not delivery_id:
            return
        try:
            if self._kept:
                await self.retry()
            await self._database.run(work, brief=True)
        except DatabaseError as error:
            log.warning("what was shown could not be recorded yet", delivery=delivery_id, error=type(error).__name__)
            self._count += 1
            self._kept[delivery_id, self._count] = work
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
