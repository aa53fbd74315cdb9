"""Deliveries in the database: who finishes one, how often it is tried, and what is left of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from cryptography.fernet import Fernet
from sqlalchemy import text

from models import queries
from models.database import Database
from models.maintenance.cleanup import clean
from models.maintenance.rekey import rekey
from models.queries.deletion.retention import RetentionLimits
from models.queries.replies import deliveries, delivery_messages, unfinished_deliveries
from models.types import DeliveryRecord, DialogKey, OutgoingMessage, Place, TurnResult

KEY = DialogKey(100, 7)
NOW = datetime.now(UTC).replace(microsecond=0)
PLACE = Place(100, 5, 7, 900, application_id=1, reply_token="token", token_expires_at=NOW + timedelta(minutes=15))


async def ready(database: Database, *messages: str) -> int:
    """A stored reply whose messages are to be shown; the id of its delivery."""
    result = TurnResult("whole", 1, 1, "stop", 1, 1, tuple(OutgoingMessage(each) for each in messages))
    async with database.write() as session:
        turn = await queries.begin_turn(session, key=KEY, text="hi", limit=9, place=PLACE, now=NOW)
    async with database.write() as session:
        assert await queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=result, now=NOW)
    return turn.delivery_id


async def waiting(database: Database, now: datetime = NOW) -> list[DeliveryRecord]:
    async with database.read() as session:
        return list(await unfinished_deliveries.unfinished_deliveries(session, now=now))


async def release(database: Database, delivery_id: int, now: datetime) -> bool:
    return await database.run(
        lambda session: unfinished_deliveries.release_delivery(session, delivery_id=delivery_id, now=now)
    )


async def take(database: Database, delivery_id: int, owner: str | None) -> bool:
    return await database.run(
        lambda session: unfinished_deliveries.take_delivery(session, delivery_id=delivery_id, owner=owner)
    )


async def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    async with database.read() as session:
        return [tuple(row) for row in await session.execute(text(statement))]


async def test_a_living_process_keeps_its_delivery_and_a_dead_one_leaves_it(database: Database) -> None:
    dying = Database(database.url)
    await ready(dying, "one", "two")
    assert await waiting(database) == []
    await dying.close()
    [record] = await waiting(database)
    assert (record.state, [each.text for each in record.messages]) == ("ready", ["one", "two"])


async def test_of_two_processes_one_takes_a_delivery(database: Database) -> None:
    delivery = await ready(database, "one")
    await release(database, delivery, NOW - timedelta(minutes=1))
    others = [Database(database.url) for _ in range(4)]
    taken = await asyncio.gather(*(take(other, delivery, None) for other in others))
    assert sorted(taken) == [False, False, False, True]
    assert await waiting(database) == []
    for other in others:
        await other.close()


async def test_of_two_processes_that_heard_a_question_one_record_speaks(database: Database) -> None:
    """The records of dead processes: the oldest one speaks, and none while a living process serves the question."""
    first, second, alive = (Database(database.url) for _ in range(3))
    ids = [
        await each.run(lambda session: deliveries.begin_waiting(session, key=KEY, place=PLACE, now=NOW))
        for each in (first, second)
    ]

    async def told_elsewhere() -> list[bool]:
        async with database.read() as session:
            return [await deliveries.is_told_elsewhere(session, delivery_id=each, nonce=PLACE.nonce) for each in ids]

    await first.close()
    assert await told_elsewhere() == [True, True]
    await second.close()
    assert await told_elsewhere() == [False, True]
    third = await alive.run(lambda session: deliveries.begin_waiting(session, key=KEY, place=PLACE, now=NOW))
    assert await told_elsewhere() == [True, True]
    async with alive.write() as session:
        turn = await queries.begin_turn(session, key=KEY, text="hi", limit=9, place=PLACE, now=NOW)
    assert turn.delivery_id == third, "the turn takes the record over"
    await alive.close()
    assert await told_elsewhere() == [True, True]


async def test_the_token_of_an_interaction_is_encrypted(database: Database) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    sealing = Database(database.url, encryption_keys=[old])
    await ready(sealing, "one")
    await sealing.close()
    assert await rows(database, "SELECT count(*) FROM deliveries WHERE reply_token LIKE '%token%'") == [(0,)]
    both = Database(database.url, encryption_keys=[new, old])
    [record] = await waiting(both)
    assert record.place.reply_token == "token"
    await rekey(both)
    await both.close()
    only = Database(database.url, encryption_keys=[new])
    [record] = await waiting(only)
    assert record.place.reply_token == "token"
    await only.close()


async def test_attempts_are_further_and_further_apart_and_come_to_an_end(database: Database) -> None:
    delivery = await ready(database, "one")
    now, pauses = NOW, []
    while await release(database, delivery, now):
        before = now
        while not await waiting(database, now):
            now += timedelta(seconds=10)
        pauses.append(now - before)
        assert await take(database, delivery, None)
    assert len(pauses) == unfinished_deliveries.MAX_ATTEMPTS
    assert pauses[:3] == [timedelta(seconds=10), timedelta(seconds=20), timedelta(seconds=40)]
    assert max(pauses) == unfinished_deliveries.LONGEST_PAUSE
    assert await rows(database, "SELECT state, reply_token, owner FROM deliveries") == [("done", None, None)]
    assert await rows(database, "SELECT content FROM delivery_messages") == [(None,)]


async def test_what_is_done_keeps_only_the_ids_of_its_messages(database: Database) -> None:
    delivery = await ready(database, "one", "two")
    async with database.write() as session:
        await delivery_messages.messages_shown(session, delivery_id=delivery, shown=[(0, 11), (1, 12)], done=True)
        assert await delivery_messages.recorded_messages(session, message_ids=[10, 11, 12]) == frozenset({11, 12})
    assert await rows(database, "SELECT state, reply_token, owner FROM deliveries") == [("done", None, None)]
    assert await rows(database, "SELECT message_id, content FROM delivery_messages ORDER BY 1") == [
        (11, None),
        (12, None),
    ]


async def test_the_cleanup_closes_what_nobody_finishes_and_clears_tokens(database: Database) -> None:
    limits = RetentionLimits(timedelta(days=7), timedelta(days=30), timedelta(days=7))
    await ready(database, "one")
    await clean(database, limits=limits, now=NOW + timedelta(minutes=30))
    assert await rows(database, "SELECT state, reply_token FROM deliveries") == [("ready", "token")]
    await clean(database, limits=limits, now=NOW + timedelta(hours=2))
    assert await rows(database, "SELECT state, reply_token FROM deliveries") == [("ready", None)]
    await clean(database, limits=limits, now=NOW + timedelta(days=2))
    assert await rows(database, "SELECT state, reply_token FROM deliveries") == [("done", None)]
    assert await rows(database, "SELECT content FROM delivery_messages") == [(None,)]


async def test_a_process_that_leaves_a_delivery_does_not_sign_off(database: Database) -> None:
    from models.queries.replies import processes

    await database.run(lambda session: processes.beat(session, lease=timedelta(minutes=1)))
    delivery = await ready(database, "one")
    await database.run(processes.sign_off)
    assert len(await rows(database, "SELECT owner FROM processes")) == 1
    async with database.write() as session:
        await delivery_messages.messages_shown(session, delivery_id=delivery, shown=[(0, 11)], done=True)
    await database.run(processes.sign_off)
    assert await rows(database, "SELECT owner FROM processes") == []
