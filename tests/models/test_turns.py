"""begin_turn, finish_turn and end_dialog (/reset), as bot/chat uses them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from models.database import Database
from models.errors import DuplicateInteraction
from models.queries import begin_turn, end_dialog, fail_turn, finish_turn, history, set_guild_settings
from models.tables import Dialog, Turn
from models.types import DialogKey, GuildSettings, Pair, TurnResult

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(guild_id=100, user_id=7)


def result(reply: str) -> TurnResult:
    return TurnResult(
        reply, prompt_tokens=20, completion_tokens=5, finish_reason="stop", first_token_ms=30, total_ms=90
    )


async def exchange(database: Database, key: DialogKey, text: str, reply: str, now: datetime = NOW) -> int:
    async with database.write() as session:
        turn = await begin_turn(session, key=key, text=text, limit=10, interaction_id=None, now=now)
    async with database.write() as session:
        assert await finish_turn(session, key=key, turn_id=turn.turn_id, result=result(reply), now=now)
    return turn.turn_id


class TestBeginTurn:
    async def test_the_snapshot_holds_the_last_pairs_oldest_first(self, database: Database) -> None:
        for number in range(12):
            await exchange(database, KEY, f"question {number}", f"answer {number}", NOW + timedelta(minutes=number))
        async with database.write() as session:
            turn = await begin_turn(session, key=KEY, text="next", limit=10, interaction_id=None, now=NOW)
        assert [pair.user for pair in turn.history] == [f"question {number}" for number in range(2, 12)]
        assert turn.history[-1].reply == "answer 11"
        assert turn.persona is None

    async def test_only_finished_turns_are_history(self, database: Database) -> None:
        await exchange(database, KEY, "kept", "yes")
        async with database.write() as session:
            failing = await begin_turn(session, key=KEY, text="fails", limit=10, interaction_id=None, now=NOW)
            await begin_turn(session, key=KEY, text="hangs", limit=10, interaction_id=None, now=NOW)
            await fail_turn(session, key=KEY, turn_id=failing.turn_id, status="failed", error_id="e-1", now=NOW)
        async with database.read() as session:
            assert [pair.user for pair in await history(session, key=KEY, limit=10)] == ["kept"]

    async def test_an_interaction_is_processed_once(self, database: Database) -> None:
        async with database.write() as session:
            await begin_turn(session, key=KEY, text="one", limit=10, interaction_id=555, now=NOW)
        with pytest.raises(DuplicateInteraction):
            async with database.write() as session:
                await begin_turn(session, key=KEY, text="one", limit=10, interaction_id=555, now=NOW)

    async def test_a_limit_of_zero_gives_no_history(self, database: Database) -> None:
        await exchange(database, KEY, "a", "b")
        async with database.write() as session:
            turn = await begin_turn(session, key=KEY, text="next", limit=0, interaction_id=None, now=NOW)
        assert turn.history == ()


class TestIdleTime:
    """A guild's own idle time also ends a dialog between two runs of the cleanup."""

    @pytest.mark.parametrize(("minutes", "goes_on"), [(59, True), (61, False)])
    async def test_a_message_after_the_idle_time_begins_another_dialog(
        self, database: Database, minutes: int, goes_on: bool
    ) -> None:
        chosen = GuildSettings(session_ttl=timedelta(hours=1))
        async with database.write() as session:
            await set_guild_settings(session, key=KEY, settings=chosen, actor_id=None, now=NOW)
        first = await exchange(database, KEY, "before", "yes")
        elsewhere = await exchange(database, DialogKey(101, 7), "elsewhere", "yes")
        later = NOW + timedelta(minutes=minutes)
        async with database.write() as session:
            turn = await begin_turn(session, key=KEY, text="after", limit=10, now=later)
        assert [pair.user for pair in turn.history] == (["before"] if goes_on else [])
        async with database.read() as session:
            found = (await session.execute(select(Turn.id, Dialog.ended_at, Dialog.end_reason).join(Dialog))).all()
        ended = {row.id: (row.ended_at, row.end_reason) for row in found}
        assert ended[first] == ((None, None) if goes_on else (later, "idle"))
        assert ended[turn.turn_id] == ended[elsewhere] == (None, None)

    async def test_a_dialog_with_a_name_is_parked_and_one_that_waits_for_a_reply_goes_on(
        self, database: Database
    ) -> None:
        chosen = GuildSettings(session_ttl=timedelta(hours=1))
        later = NOW + timedelta(hours=2)
        other = DialogKey(KEY.guild_id, 8)
        async with database.write() as session:
            await set_guild_settings(session, key=KEY, settings=chosen, actor_id=None, now=NOW)
        first = await exchange(database, KEY, "before", "yes")
        async with database.write() as session:
            await session.execute(update(Dialog).values(name="named"))
            pending = await begin_turn(session, key=other, text="waits", limit=10, now=NOW)
            await begin_turn(session, key=KEY, text="after", limit=10, now=later)
            after = await begin_turn(session, key=other, text="after", limit=10, now=later)
        assert after.dialog_id == pending.dialog_id
        async with database.read() as session:
            [dialog] = (
                await session.execute(select(Dialog.ended_at, Dialog.parked_at).join(Turn).where(Turn.id == first))
            ).all()
        assert (dialog.ended_at, dialog.parked_at) == (None, later)


class TestFinishTurn:
    async def test_finishing_twice_gives_the_same_answer(self, database: Database) -> None:
        async with database.write() as session:
            turn = await begin_turn(session, key=KEY, text="hi", limit=10, interaction_id=None, now=NOW)
        for _ in range(2):
            async with database.write() as session:
                assert await finish_turn(session, key=KEY, turn_id=turn.turn_id, result=result("hello"), now=NOW)
        async with database.read() as session:
            assert await history(session, key=KEY, limit=10) == (Pair(turn.turn_id, "hi", "hello"),)

    async def test_a_turn_of_another_key_cannot_be_finished(self, database: Database) -> None:
        async with database.write() as session:
            turn = await begin_turn(session, key=KEY, text="hi", limit=10, interaction_id=None, now=NOW)
        for other in (DialogKey(101, 7), DialogKey(100, 8), DialogKey(0, 7), DialogKey(100, 7, 9)):
            async with database.write() as session:
                assert not await finish_turn(session, key=other, turn_id=turn.turn_id, result=result("stolen"), now=NOW)
        async with database.write() as session:
            assert await finish_turn(session, key=KEY, turn_id=turn.turn_id, result=result("mine"), now=NOW)


class TestReset:
    async def test_reset_ends_the_dialog_and_counts_its_pairs(self, database: Database) -> None:
        await exchange(database, KEY, "a", "b")
        await exchange(database, KEY, "c", "d")
        async with database.write() as session:
            assert await end_dialog(session, key=KEY, now=NOW) == 2
            assert await end_dialog(session, key=KEY, now=NOW) == 0
        async with database.read() as session:
            assert await history(session, key=KEY, limit=10) == ()

    async def test_fault_09_a_reply_after_a_reset_is_not_stored(self, database: Database) -> None:
        async with database.write() as session:
            old = await begin_turn(session, key=KEY, text="slow", limit=10, interaction_id=None, now=NOW)
        async with database.write() as session:
            await end_dialog(session, key=KEY, now=NOW)
        async with database.write() as session:
            new = await begin_turn(session, key=KEY, text="fresh", limit=10, interaction_id=None, now=NOW)
        async with database.write() as session:
            assert not await finish_turn(session, key=KEY, turn_id=old.turn_id, result=result("late"), now=NOW)
            assert await finish_turn(session, key=KEY, turn_id=new.turn_id, result=result("now"), now=NOW)
        assert new.dialog_id != old.dialog_id
        async with database.read() as session:
            assert await history(session, key=KEY, limit=10) == (Pair(new.turn_id, "fresh", "now"),)
