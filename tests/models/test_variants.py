"""Regenerated replies and deleted pairs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from models import queries
from models.database import Database
from models.queries.replies import unfinished_deliveries
from models.types import DialogKey, Place, TurnResult

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7, 5)


def result(reply: str) -> TurnResult:
    return TurnResult(reply, 3, 2, "stop", 1, 2)


async def exchange(database: Database, text: str, reply: str) -> int:
    async with database.write() as session:
        snapshot = await queries.begin_turn(session, key=KEY, text=text, limit=10, now=NOW)
        await queries.finish_turn(session, key=KEY, turn_id=snapshot.turn_id, result=result(reply), now=NOW)
    return snapshot.turn_id


class TestVariants:
    async def test_regenerating_keeps_the_old_reply(self, database: Database) -> None:
        first = await exchange(database, "a", "b")
        turn = await exchange(database, "c", "d")
        for reply in ("e", "f"):
            async with database.write() as session:
                snapshot = await queries.begin_regeneration(session, key=KEY, limit=10, now=NOW)
                assert snapshot is not None
                assert (snapshot.turn_id, snapshot.text) == (turn, "c")
                assert [pair.turn_id for pair in snapshot.history] == [first]
                assert await queries.finish_regeneration(session, key=KEY, turn_id=turn, result=result(reply), now=NOW)
        async with database.write() as session:
            kept = await queries.variants(session, key=KEY, turn_id=turn)
            assert [(one.reply, one.active) for one in kept] == [("d", False), ("e", False), ("f", True)]
            assert await queries.variants(session, key=DialogKey(100, 8, 5), turn_id=turn) == ()
            assert not await queries.select_variant(session, key=DialogKey(100, 8, 5), turn_id=turn, position=1)
            assert not await queries.select_variant(session, key=KEY, turn_id=turn, position=9)
            assert await queries.select_variant(session, key=KEY, turn_id=turn, position=1)
        async with database.read() as session:
            assert (await queries.history(session, key=KEY, limit=1))[0].reply == "d"
            [used] = await queries.usage(session, key=KEY, since=NOW.date())
        assert (used.turns, used.completion_tokens) == (2, 8)

    async def test_a_crash_during_regeneration_keeps_the_old_reply(self, database: Database) -> None:
        turn = await exchange(database, "a", "b")
        dying = Database(database.url)
        async with dying.write() as session:
            place = Place(100, 5, 7, 900, application_id=1, reply_token="tok")
            await queries.begin_regeneration(session, key=KEY, limit=10, place=place, now=NOW)
        async with database.read() as session:
            assert await unfinished_deliveries.unfinished_deliveries(session, now=NOW) == ()
        await dying.close()
        async with database.write() as session:
            assert await queries.interrupt_dead_turns(session, now=NOW) == 0
            [waiting] = await unfinished_deliveries.unfinished_deliveries(session, now=NOW)
            assert (waiting.turn_id, waiting.place.reply_token, waiting.state) == (turn, "tok", "writing")
            assert (await queries.history(session, key=KEY, limit=1))[0].reply == "b"

    async def test_nothing_to_regenerate(self, database: Database) -> None:
        async with database.write() as session:
            assert await queries.begin_regeneration(session, key=KEY, limit=10, now=NOW) is None
            assert not await queries.finish_regeneration(session, key=KEY, turn_id=1, result=result("x"), now=NOW)

    async def test_pairs_are_deleted(self, database: Database) -> None:
        turns = [await exchange(database, f"q{number}", "a") for number in range(4)]
        async with database.write() as session:
            assert not await queries.forget_turn(session, key=DialogKey(101, 7, 5), turn_id=turns[0])
            assert await queries.forget_turn(session, key=KEY, turn_id=turns[0])
            assert await queries.forget_last(session, key=KEY, count=2) == 2
        async with database.read() as session:
            assert [pair.user for pair in await queries.history(session, key=KEY, limit=9)] == ["q1"]

    async def test_a_reset_can_be_undone_within_ten_minutes(self, database: Database) -> None:
        await exchange(database, "a", "b")
        async with database.write() as session:
            await queries.end_dialog(session, key=KEY, now=NOW)
            assert await queries.undo_reset(session, key=KEY, since=NOW + timedelta(minutes=1), now=NOW) is None
            assert await queries.undo_reset(session, key=KEY, since=NOW - timedelta(minutes=10), now=NOW) is not None
            assert await queries.undo_reset(session, key=KEY, since=NOW - timedelta(minutes=10), now=NOW) is None
            assert len(await queries.history(session, key=KEY, limit=9)) == 1
