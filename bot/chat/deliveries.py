"""Records what of a reply has been shown, so that another process can show the rest after a crash.

Never raises: a reply that is on the screen must not fail because this could not be recorded. What could not is kept and
tried again. Knows the queries; knows nothing of Discord.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import structlog

from models.database import Database, Work
from models.errors import DatabaseError
from models.queries.deliveries import message_sent, messages_shown, release_delivery

log = structlog.get_logger(__name__)

_MAX_KEPT = 10_000


class DeliveryLog:
    """The record of all deliveries of this process. A delivery id of 0 stands for one that is not recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: OrderedDict[tuple[int, int], Work[None]] = OrderedDict()
        self._count = 0

    async def sent(self, delivery_id: int, position: int, message_id: int) -> None:
        """A message exists now; its text is still growing."""
        await self._run(
            delivery_id,
            lambda session: message_sent(session, delivery_id=delivery_id, position=position, message_id=message_id),
        )

    async def shown(self, delivery_id: int, shown: Sequence[tuple[int, int | None]], *, done: bool) -> None:
        """Messages (position, id) show their final text, or were deleted (id None). `done`: there are no others."""
        await self._run(
            delivery_id,
            lambda session: messages_shown(session, delivery_id=delivery_id, shown=shown, done=done),
        )

    async def release(self, delivery_id: int) -> None:
        """The rest could not be shown now: leave it to the job that looks for unfinished deliveries."""
        await self._run(delivery_id, lambda session: release_delivery(session, delivery_id=delivery_id, now=datetime.now(UTC)))

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
