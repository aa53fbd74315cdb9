"""The record of the messages of one reply: nobody waits for it while the reply grows, and it keeps its order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, select

from bot.chat.turns.deliveries import DeliveryLog
from bot.discord_app.replies.sinks.sink_record import SinkRecord
from models.database import Database
from models.queries import begin_turn
from models.tables import DeliveryMessage, Turn
from models.types import DialogKey, Place

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
PLACE = Place(guild_id=1, channel_id=2, asker_id=3, nonce=4)


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    opened = Database(sqlite_url)
    yield opened
    await opened.close()


async def delivery(database: Database) -> int:
    """The record of a reply that is being written."""
    turn = await database.run(
        lambda session: begin_turn(session, key=DialogKey(1, 3), text="hi", limit=10, place=PLACE, now=NOW)
    )
    return turn.delivery_id


async def recorded(database: Database) -> dict[int, int | None]:
    """The recorded messages, by their position."""
    async with database.read() as session:
        rows = await session.execute(select(DeliveryMessage.position, DeliveryMessage.message_id))
        return {position: message_id for position, message_id in rows}


async def test_a_growing_reply_does_not_wait_for_the_database(database: Database) -> None:
    ids: dict[int, int] = {}
    record = SinkRecord(DeliveryLog(database), ids, is_open=False)
    record.begin(await delivery(database))
    async with database.write():  # something else holds SQLite's only writer
        for index in (0, 1):
            ids[index] = 100 + index
            record.sent_live(index)
        assert await recorded(database) == {}
    await record.settled()
    assert await recorded(database) == {0: 100, 1: 101}


async def test_what_was_sent_before_the_turn_began_is_recorded_then(database: Database) -> None:
    record = SinkRecord(DeliveryLog(database), {0: 100}, is_open=False)
    record.sent_live(0)
    await record.settled()
    assert await recorded(database) == {}
    record.begin(await delivery(database))
    await record.settled()
    assert await recorded(database) == {0: 100}


async def test_a_deleted_message_stays_deleted(database: Database) -> None:
    """It is deleted while its record still waits for the database."""
    deliveries, ids = DeliveryLog(database), {0: 100}
    record = SinkRecord(deliveries, ids, is_open=False)
    record.begin(await delivery(database))
    async with database.write():
        record.sent_live(0)
    del ids[0]
    await record.settled()
    await deliveries.shown(record.delivery_id, [(0, None)], done=False)
    assert await recorded(database) == {}


async def test_a_turn_that_was_deleted_meanwhile_fails_no_record(database_url: str) -> None:
    """Nor does what was kept of it for later, before which nothing else would be recorded."""
    database = Database(database_url)
    deliveries = DeliveryLog(database)
    record = SinkRecord(deliveries, {0: 100}, is_open=False)
    record.begin(await delivery(database))
    await database.run(lambda session: session.execute(delete(Turn)))
    await deliveries.attempted(record.delivery_id, 0)
    record.sent_live(0)
    await record.settled()
    await deliveries.shown(record.delivery_id, [(0, 100)], done=True)
    other = await delivery(database)
    await deliveries.sent(other, 1, 101)
    assert await recorded(database) == {1: 101}
    await database.close()
