"""Turns that were stored before: found, shown elsewhere, given another reply, deleted. The caller checks the tenant.

Knows the queries; knows neither the engine nor Discord.
"""

from __future__ import annotations

from datetime import UTC, datetime

from bot.chat.files.recent_images import RecentImages
from bot.chat.requests import Messages
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.queries.dialogs.turn_info import turn_info
from models.queries.replies.deliveries import delivery_of_turn
from models.queries.replies.delivery_messages import turn_of_message
from models.types import DeliveryRecord, DialogKey, Pair, Place, TurnInfo


class StoredTurns:
    """The turns of one database. `images`: the pictures of the last ones, which are stored nowhere."""

    def __init__(self, database: Database, images: RecentImages) -> None:
        self._database = database
        self._images = images

    async def turn(self, turn_id: int) -> TurnInfo | None:
        """A stored turn, or None if it is gone. The caller checks the tenant."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await turn_info(session, turn_id=turn_id)

    async def forget_turn(self, turn: TurnInfo) -> bool:
        """Delete one turn with all its replies. False if it is gone, or still waits for its reply."""
        self._images.forget(turn.turn_id)
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.forget_turn(session, key=turn.key, turn_id=turn.turn_id)
            )

    async def select_variant(self, turn: TurnInfo, position: int, messages: Messages, place: Place) -> bool:
        """Make another reply of a turn the one that is remembered. False if there is none at this position.

        `place`: the messages that show the present one, and how they can be reached.
        """
        now = datetime.now(UTC)
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.select_variant(
                    session,
                    key=turn.key,
                    turn_id=turn.turn_id,
                    position=position,
                    messages=messages,
                    place=place,
                    now=now,
                )
            )

    async def delivery(self, turn: TurnInfo) -> DeliveryRecord | None:
        """Where the reply of a turn is shown."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await delivery_of_turn(session, key=turn.key, turn_id=turn.turn_id)

    async def turn_of_message(self, message_id: int) -> TurnInfo | None:
        """The turn whose reply a message on Discord shows."""
        with translate_database_errors():
            async with self._database.read() as session:
                turn_id = await turn_of_message(session, message_id=message_id)
                return None if turn_id is None else await turn_info(session, turn_id=turn_id)

    async def history(self, key: DialogKey, limit: int) -> tuple[Pair, ...]:
        """The last `limit` pairs of the open dialog, oldest first."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.history(session, key=key, limit=limit)
