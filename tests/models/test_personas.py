"""Precedence and versions of personas; regenerated replies and deleted pairs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from models import queries
from models.database import Database
from models.queries.replies import unfinished_deliveries
from models.queries.tenants.personas import KEPT_VERSIONS
from models.types import DialogKey, Place, StoredLevel, TurnResult

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7, 5)


def result(reply: str) -> TurnResult:
    return TurnResult(reply, 3, 2, "stop", 1, 2)


async def set_to(database: Database, key: DialogKey, level: StoredLevel, prompt: str) -> None:
    async with database.write() as session:
        await queries.set_persona(session, key=key, level=level, name="N", prompt=prompt, author_id=7, now=NOW)


async def effective(database: Database, key: DialogKey) -> tuple[str, str] | None:
    async with database.read() as session:
        found = await queries.effective_persona(session, key=key)
    return None if found is None else (found.level, found.prompt)


async def exchange(database: Database, text: str, reply: str) -> int:
    async with database.write() as session:
        snapshot = await queries.begin_turn(session, key=KEY, text=text, limit=10, now=NOW)
        await queries.finish_turn(session, key=KEY, turn_id=snapshot.turn_id, result=result(reply), now=NOW)
    return snapshot.turn_id


class TestPrecedence:
    async def test_member_before_channel_before_guild(self, database: Database) -> None:
        assert await effective(database, KEY) is None
        for level in ("guild", "channel", "member"):
            await set_to(database, KEY, level, f"the {level}'s")
            assert await effective(database, KEY) == (level, f"the {level}'s")
        assert await effective(database, DialogKey(100, 8, 5)) == ("channel", "the channel's")
        assert await effective(database, DialogKey(100, 8, 6)) == ("guild", "the guild's")
        assert await effective(database, DialogKey(101, 7, 5)) is None
        for level, left in (("member", "channel"), ("channel", "guild")):
            async with database.write() as session:
                assert await queries.clear_persona(session, key=KEY, level=level)
                assert not await queries.clear_persona(session, key=KEY, level=level)
            found = await effective(database, KEY)
            assert found is not None
            assert found[0] == left

    async def test_reset_keeps_the_persona(self, database: Database) -> None:
        await set_to(database, KEY, "member", "mine")
        await exchange(database, "a", "b")
        async with database.write() as session:
            assert await queries.end_dialog(session, key=KEY, now=NOW) == 1
        assert await effective(database, KEY) == ("member", "mine")


class TestVersions:
    async def test_rollback_also_after_a_clear(self, database: Database) -> None:
        for prompt in ("one", "two", "three"):
            await set_to(database, KEY, "guild", prompt)
        async with database.write() as session:
            assert await queries.rollback_persona(session, key=KEY, level="guild", version=9) is None
            back = await queries.rollback_persona(session, key=KEY, level="guild", version=1)
        assert back is not None
        assert (back.prompt, back.version) == ("one", 1)
        async with database.write() as session:
            await queries.clear_persona(session, key=KEY, level="guild")
            await queries.rollback_persona(session, key=KEY, level="guild", version=2)
            versions = await queries.persona_versions(session, key=KEY, level="guild")
        assert [(one.version, one.prompt, one.active) for one in versions] == [
            (3, "three", False), (2, "two", True), (1, "one", False),
        ]  # fmt: skip
        await set_to(database, KEY, "guild", "four")
        assert await effective(database, KEY) == ("guild", "four")

    async def test_two_admins_at_once_get_two_versions(self, database: Database) -> None:
        await asyncio.gather(*(set_to(database, KEY, "guild", f"admin {number}") for number in range(6)))
        async with database.read() as session:
            versions = await queries.persona_versions(session, key=KEY, level="guild")
        assert [one.version for one in versions] == [6, 5, 4, 3, 2, 1]

    async def test_old_versions_are_deleted(self, database: Database) -> None:
        for number in range(KEPT_VERSIONS + 5):
            await set_to(database, KEY, "member", f"v{number + 1}")
        async with database.read() as session:
            versions = await queries.persona_versions(session, key=KEY, level="member")
        assert len(versions) == KEPT_VERSIONS
        assert versions[0].active


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
