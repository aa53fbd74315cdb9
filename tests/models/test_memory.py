"""Facts and summaries in the database: whose they are, when they go, and which process may write them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bot.guilds.privacy import PrivacyService
from models import queries
from models.database import Database
from models.maintenance.cleanup import clean
from models.queries.deletion.retention import RetentionLimits
from models.queries.dialogs.conversations import leave_dialog
from models.queries.dialogs.prompts import prompt_of_turn
from models.queries.memory import facts, summaries, work
from models.queries.memory.forgetting import forget_before
from models.queries.tenants.member_settings import set_member_memory
from models.types import DialogKey, GuildSettings, MemberSettings, Place, PromptRecord, Summary
from tests.bot.stored_turns import add_turn, turn_result

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ANNA = DialogKey(100, 7)
BEN = DialogKey(100, 8)
SHARED = DialogKey(100, 7, 5, shared=True)
LIMITS = RetentionLimits(timedelta(days=7), timedelta(days=30), timedelta(days=7))


def same(one: str, other: str) -> bool:
    return one == other


async def texts(database: Database, key: DialogKey, *, shared: bool = False) -> list[str]:
    async with database.read() as session:
        return [fact.text for fact in await facts.facts_of(session, key=key, shared=shared)]


async def summary(database: Database, key: DialogKey) -> Summary | None:
    async with database.read() as session:
        return await summaries.summary_of(session, key=key)


async def remember(database: Database, key: DialogKey, turn_id: int, *told: str, at: datetime = NOW) -> int:
    async with database.write() as session:
        return await facts.store_facts(session, key=key, texts=told, turn_id=turn_id, same=same, now=at)


async def summarised(database: Database, key: DialogKey, dialog_id: int, count: int, text: str = "They met.") -> bool:
    """Store a summary of the next `count` pairs."""
    async with database.write() as session:
        before = await summaries.summary_of(session, key=key, dialog_id=dialog_id)
        after = before.to_turn_id if before else 0
        pairs = await work.pairs_to_remember(session, key=key, dialog_id=dialog_id, after=after, limit=count)
        return await summaries.store_summary(
            session, key=key, dialog_id=dialog_id, text=text, before=before, pairs=pairs, now=NOW
        )


async def dialog_with(database: Database, key: DialogKey, count: int) -> tuple[int, list[int]]:
    """A new dialog with `count` pairs and one more: its id, and the ids of its turns."""
    async with database.write() as session:
        ids = [await add_turn(session, key, NOW + timedelta(seconds=n), f"q{n}", f"a{n}") for n in range(count)]
        turn = await queries.begin_turn(session, key=key, text="last", limit=0, now=NOW + timedelta(minutes=1))
        await queries.finish_turn(
            session, key=key, turn_id=turn.turn_id, result=turn_result(), now=NOW + timedelta(minutes=1)
        )
    return turn.dialog_id, [*ids, turn.turn_id]


class TestFacts:
    async def test_facts_stay_with_their_member_and_guild(self, database: Database) -> None:
        _, turns = await dialog_with(database, ANNA, 1)
        assert await remember(database, ANNA, turns[0], "Lives in Bergen.", "Has a cat.") == 2
        assert await remember(database, ANNA, turns[1], "Lives in Bergen.") == 0
        for other in (BEN, DialogKey(101, 7), DialogKey(0, 7)):
            assert await remember(database, other, turns[0], "Stolen.") == 0, "the turn is another member's"
            assert await texts(database, other) == []
            async with database.write() as session:
                [first, _] = await facts.facts_of(session, key=ANNA)
                stolen = {"key": other, "fact_id": first.fact_id}
                assert await facts.fact_of(session, **stolen) is None
                assert await facts.facts_by_id(session, key=other, fact_ids=[first.fact_id]) == ()
                assert not await facts.edit_fact(session, **stolen, text="stolen", now=NOW)
                assert not await facts.forget_fact(session, **stolen)
                assert await facts.forget_facts(session, key=other) == 0
        assert sorted(await texts(database, ANNA)) == ["Has a cat.", "Lives in Bergen."]

    async def test_the_least_useful_goes_above_fifty(self, database: Database) -> None:
        _, turns = await dialog_with(database, ANNA, 1)
        async with database.write() as session:
            await facts.add_fact(session, key=ANNA, text="Written by hand.", now=NOW - timedelta(days=9))
        for number in range(facts.MAX_FACTS - 1):
            await remember(database, ANNA, turns[0], f"Fact {number}.", at=NOW + timedelta(seconds=number))
        async with database.write() as session:
            known = {fact.text: fact.fact_id for fact in await facts.facts_of(session, key=ANNA)}
            used = (known["Fact 0."], known["Fact 1."])
            await facts.use_facts(session, key=ANNA, fact_ids=used, now=NOW + timedelta(days=1))
        assert await remember(database, ANNA, turns[1], "One more.", at=NOW + timedelta(days=1)) == 1
        left = await texts(database, ANNA)
        assert len(left) == facts.MAX_FACTS
        assert {"Written by hand.", "Fact 0.", "Fact 1.", "One more."} <= set(left)
        assert "Fact 2." not in left

    async def test_what_was_told_in_private_is_in_no_shared_dialog(self, database: Database) -> None:

        place = Place(100, 5, 7, nonce=1, ephemeral=True)
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=ANNA, text="psst", limit=0, place=place, now=NOW)
            await queries.finish_turn(session, key=ANNA, turn_id=turn.turn_id, result=turn_result(), now=NOW)
            open_turn = await add_turn(session, ANNA, NOW)
        await remember(database, ANNA, turn.turn_id, "Is ill.")
        await remember(database, ANNA, open_turn, "Likes tea.")
        assert set(await texts(database, ANNA)) == {"Is ill.", "Likes tea."}
        assert await texts(database, ANNA, shared=True) == ["Likes tea."]

    async def test_what_the_member_wrote_stays_where_they_wanted_it(self, database: Database) -> None:
        _, [turn, _] = await dialog_with(database, ANNA, 1)
        await remember(database, ANNA, turn, "Likes tea.", "Likes ale.")
        async with database.write() as session:
            await facts.add_fact(session, key=ANNA, text="Is ill.", private=True, now=NOW)
            await facts.add_fact(session, key=ANNA, text="Is tall.", now=NOW)
            await facts.add_fact(session, key=DialogKey(0, 7), text="Is at home.", now=NOW)
        assert set(await texts(database, ANNA, shared=True)) == {"Likes tea.", "Likes ale.", "Is tall."}
        async with database.write() as session:
            ids = {fact.text: fact.fact_id for fact in await facts.facts_of(session, key=ANNA)}
            for old, new in (("Likes ale.", "Drinks in secret."), ("Is ill.", "Is very ill."), ("Is tall.", "Is big.")):
                assert await facts.edit_fact(session, key=ANNA, fact_id=ids[old], text=new, now=NOW)
            [home] = await facts.facts_of(session, key=DialogKey(0, 7))
            assert await facts.edit_fact(session, key=DialogKey(0, 7), fact_id=home.fact_id, text="Away.", now=NOW)
            [away] = await facts.facts_of(session, key=DialogKey(0, 7))
        assert set(await texts(database, ANNA, shared=True)) == {"Likes tea.", "Is big."}
        assert not away.private, "in direct messages everything is"

    async def test_a_forgotten_pair_takes_its_facts_with_it(self, database: Database) -> None:
        _, turns = await dialog_with(database, ANNA, 2)
        for turn in turns:
            await remember(database, ANNA, turn, f"Told by {turn}.")
        async with database.write() as session:
            assert await queries.forget_turn(session, key=ANNA, turn_id=turns[0])
            assert await queries.forget_last(session, key=ANNA, count=1) == 1
        assert await texts(database, ANNA) == [f"Told by {turns[1]}."]
        assert await remember(database, ANNA, turns[0], "Too late.") == 0

    async def test_everything_is_forgotten_while_notes_are_stored(self, database: Database, database_url: str) -> None:
        """Whichever transaction is first: in the end there are no notes of what was said before."""
        _, [first, last] = await dialog_with(database, ANNA, 1)
        async with database.write() as session:
            await set_member_memory(session, key=ANNA, memory=True, now=NOW)
        other = Database(database_url)

        async def forget(at: datetime) -> int:
            async with other.write() as session:
                await forget_before(session, key=ANNA, now=at)
                return await facts.forget_facts(session, key=ANNA)

        async with database.write() as session:
            await forget_before(session, key=ANNA, now=NOW)
            storing = asyncio.ensure_future(remember(other, ANNA, first, "Sings."))
            await asyncio.sleep(0.2)
            assert not storing.done()
        assert await storing == 0
        async with database.write() as session:
            told = {"key": ANNA, "texts": ("Dances.",), "turn_id": last, "same": same, "now": NOW}
            assert await facts.store_facts(session, **told) == 1
            forgetting = asyncio.ensure_future(forget(NOW + timedelta(hours=1)))
            await asyncio.sleep(0.2)
            assert not forgetting.done()
        assert await forgetting == 1
        assert await texts(database, ANNA) == []
        await other.close()

    async def test_an_opted_out_member_has_none(self, database: Database) -> None:

        await PrivacyService(database).opt_out(7)
        async with database.write() as session:
            assert not await facts.add_fact(session, key=ANNA, text="Secret.", now=NOW)
            assert not await set_member_memory(session, key=ANNA, memory=True, now=NOW)
        assert await texts(database, ANNA) == []

    async def test_retention_counts_from_the_last_use(self, database: Database) -> None:
        async with database.write() as session:
            for key, name in ((ANNA, "Anna"), (BEN, "Ben"), (DialogKey(101, 7), "Anna elsewhere")):
                for number, age in enumerate((40, 20, 5)):
                    await facts.add_fact(session, key=key, text=f"{name} {number}", now=NOW - timedelta(days=age))
            [*_, oldest] = await facts.facts_of(session, key=ANNA)
            await facts.use_facts(session, key=ANNA, fact_ids=(oldest.fact_id,), now=NOW - timedelta(days=1))
            await queries.set_member_settings(session, key=BEN, settings=MemberSettings(retention_days=10), now=NOW)
            await queries.set_guild_settings(
                session, key=DialogKey(101, 0), settings=GuildSettings(retention_days=25), actor_id=None, now=NOW
            )
        report = await clean(database, limits=LIMITS, now=NOW)
        assert report.purged_facts == 3
        assert set(await texts(database, ANNA)) == {"Anna 0", "Anna 1", "Anna 2"}
        assert await texts(database, BEN) == ["Ben 2"]
        assert set(await texts(database, DialogKey(101, 7))) == {"Anna elsewhere 1", "Anna elsewhere 2"}


class TestSummaries:
    async def test_a_summary_rolls_on_and_keeps_what_prompts_refer_to(self, database: Database) -> None:
        dialog, turns = await dialog_with(database, ANNA, 6)
        assert await summarised(database, ANNA, dialog, 2, "first")
        first = await summary(database, ANNA)
        assert first is not None
        record = PromptRecord(default_prompt="You are a test.", num_pairs=1, summary_id=first.summary_id)
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=ANNA, text="why", limit=1, now=NOW)
            result = replace(turn_result(), prompt=record)
            await queries.finish_turn(session, key=ANNA, turn_id=turn.turn_id, result=result, now=NOW)
        assert await summarised(database, ANNA, dialog, 2, "second")
        assert await summarised(database, ANNA, dialog, 2, "third")
        newest = await summary(database, ANNA)
        assert newest is not None
        assert (newest.text, newest.from_turn_id, newest.to_turn_id) == ("third", turns[0], turns[5])
        async with database.read() as session:
            used = await prompt_of_turn(session, key=ANNA, turn_id=turn.turn_id)
            assert used is not None
            assert used.summary == first
            assert used.record.num_pairs == 1
            assert used.num_before == 7
            assert await prompt_of_turn(session, key=BEN, turn_id=turn.turn_id) is None
            assert await summaries.summary_by_id(session, key=BEN, summary_id=newest.summary_id) is None
            second = await summaries.summary_by_id(session, key=ANNA, summary_id=first.summary_id + 1)
            assert second is None, "no prompt refers to it"

    @pytest.mark.parametrize("change", ["forget", "forget last", "regenerate", "edit"])
    async def test_a_changed_pair_ends_what_covers_it(self, database: Database, change: str) -> None:
        dialog, turns = await dialog_with(database, ANNA, 4)
        assert await summarised(database, ANNA, dialog, 3)
        async with database.write() as session:
            if change == "forget":
                await queries.forget_turn(session, key=ANNA, turn_id=turns[1])
            elif change == "forget last":
                await queries.forget_last(session, key=ANNA, count=3)
            elif change == "regenerate":
                again = await queries.begin_regeneration(session, key=ANNA, limit=9, turn_id=turns[1], now=NOW)
                assert again is not None
                await queries.finish_regeneration(
                    session, key=ANNA, turn_id=turns[1], result=turn_result("other"), now=NOW
                )
            else:
                turn = await queries.begin_turn(session, key=ANNA, text="else", limit=9, replaces=turns[2], now=NOW)
                await queries.finish_turn(session, key=ANNA, turn_id=turn.turn_id, result=turn_result(), now=NOW)
        assert await summary(database, ANNA) is None

    async def test_a_later_pair_leaves_it_alone(self, database: Database) -> None:
        dialog, turns = await dialog_with(database, ANNA, 4)
        assert await summarised(database, ANNA, dialog, 3)
        async with database.write() as session:
            await queries.forget_turn(session, key=ANNA, turn_id=turns[3])
        assert await summary(database, ANNA) is not None

    async def test_what_changed_while_it_was_written_is_not_stored(self, database: Database) -> None:
        dialog, turns = await dialog_with(database, ANNA, 4)
        async with database.write() as session:
            pairs = await work.pairs_to_remember(session, key=ANNA, dialog_id=dialog, after=0, limit=3)
            await queries.forget_turn(session, key=ANNA, turn_id=turns[1])
        arguments = {"key": ANNA, "dialog_id": dialog, "text": "x", "before": None, "now": NOW}
        async with database.write() as session:
            assert not await summaries.store_summary(session, pairs=pairs, **arguments)
            assert not await summaries.store_summary(session, pairs=pairs[:1], **{**arguments, "key": BEN})
            assert await summaries.store_summary(session, pairs=pairs[:1], **arguments)
            assert not await summaries.store_summary(session, pairs=pairs[2:], **arguments), "another is there now"

    async def test_a_parked_dialog_keeps_its_summary_when_that_of_the_open_one_is_forgotten(
        self, database: Database
    ) -> None:
        first, _ = await dialog_with(database, ANNA, 2)
        assert await summarised(database, ANNA, first, 2)
        async with database.write() as session:
            assert await leave_dialog(session, key=ANNA, now=NOW + timedelta(minutes=2))
        second, _ = await dialog_with(database, ANNA, 2)
        assert await summarised(database, ANNA, second, 2)
        async with database.write() as session:
            assert await summaries.forget_summaries(session, key=ANNA) == 1
            assert await summaries.summary_of(session, key=ANNA, dialog_id=second) is None
            assert await summaries.summary_of(session, key=ANNA, dialog_id=first) is not None

    async def test_a_person_leaves_no_words_in_the_summary_of_others(self, database: Database) -> None:

        other = replace(SHARED, user_id=8)
        async with database.write() as session:
            first = await add_turn(session, SHARED, NOW)
            await add_turn(session, other, NOW)
            turn = await queries.begin_turn(session, key=SHARED, text="x", limit=0, now=NOW)
        assert await summarised(database, SHARED, turn.dialog_id, 2)
        await remember(database, SHARED, first, "Anna's.")
        await PrivacyService(database).delete(8)
        assert await summary(database, SHARED) is None
        assert await texts(database, ANNA) == ["Anna's."]
        await PrivacyService(database).delete(7)
        assert await texts(database, ANNA) == []

    async def test_expired_pairs_end_it_and_a_reset_hides_it(self, database: Database) -> None:
        dialog, _ = await dialog_with(database, ANNA, 4)
        assert await summarised(database, ANNA, dialog, 3)
        async with database.write() as session:
            await queries.end_dialog(session, key=ANNA, now=NOW)
        assert await summary(database, ANNA) is None
        async with database.write() as session:
            await queries.undo_reset(session, key=ANNA, since=NOW, now=NOW)
        assert await summary(database, ANNA) is not None
        ttl = RetentionLimits(timedelta(days=900), timedelta(days=30), timedelta(days=7))
        await clean(database, limits=ttl, now=NOW + timedelta(days=31))
        assert await summary(database, ANNA) is None


class TestPrompts:
    async def test_a_turn_gets_what_was_said_before_it(self, database: Database) -> None:
        dialog, turns = await dialog_with(database, ANNA, 4)
        await summarised(database, ANNA, dialog, 2, "two")
        async with database.write() as session:
            await facts.add_fact(session, key=ANNA, text="Likes tea.", now=NOW)

        async def snapshot(turn_id: int | None, *, memory: bool = True) -> tuple[str | None, list[str]]:
            async with database.write() as session:
                if turn_id is None:
                    got = await queries.begin_turn(session, key=ANNA, text="x", limit=2, memory=memory, now=NOW)
                else:
                    again = await queries.begin_regeneration(
                        session, key=ANNA, limit=2, turn_id=turn_id, memory=memory, now=NOW
                    )
                    assert again is not None
                    got = again
            return got.summary and got.summary.text, [fact.text for fact in got.facts]

        assert await snapshot(None) == (None, [])  # neither the guild nor the member chose it
        async with database.write() as session:
            await queries.set_guild_settings(
                session, key=ANNA, settings=GuildSettings(memory=True), actor_id=None, now=NOW
            )
        assert await snapshot(None) == (None, [])
        async with database.write() as session:
            assert await set_member_memory(session, key=ANNA, memory=True, now=NOW)
        assert await snapshot(None) == ("two", ["Likes tea."])
        assert await snapshot(None, memory=False) == (None, [])
        assert await snapshot(turns[1]) == (None, ["Likes tea."]), "it covers this turn itself"
        assert await snapshot(turns[2]) == ("two", ["Likes tea."])

    async def test_a_shared_dialog_has_its_summary_and_the_facts_of_who_wants_it(self, database: Database) -> None:
        async with database.write() as session:
            await queries.set_guild_settings(
                session, key=ANNA, settings=GuildSettings(memory=True), actor_id=None, now=NOW
            )
            await add_turn(session, SHARED, NOW)
            turn = await queries.begin_turn(session, key=SHARED, text="x", limit=0, now=NOW)
            for key in (ANNA, BEN):
                await facts.add_fact(session, key=key, text=f"Of {key.user_id}.", now=NOW)
            await set_member_memory(session, key=ANNA, memory=True, now=NOW)
        await summarised(database, SHARED, turn.dialog_id, 1, "ours")
        async with database.write() as session:
            of_anna = await queries.begin_turn(session, key=SHARED, text="x", limit=0, memory=True, now=NOW)
            of_ben = await queries.begin_turn(
                session, key=replace(SHARED, user_id=8), text="x", limit=0, memory=True, now=NOW
            )
        assert of_anna.summary is not None
        assert of_anna.summary == of_ben.summary
        assert [fact.text for fact in of_anna.facts] == ["Of 7."]
        assert of_ben.facts == ()


class TestWork:
    async def tasks(self, database: Database, now: datetime = NOW) -> list[int]:
        async with database.read() as session:
            found = await work.dialogs_to_remember(session, active_after=NOW - timedelta(days=1), limit=9, now=now)
        return [task.dialog_id for task in found]

    async def test_only_dialogs_whose_members_chose_it(self, database: Database) -> None:
        anna, _ = await dialog_with(database, ANNA, 3)
        ben, _ = await dialog_with(database, BEN, 1)
        direct, _ = await dialog_with(database, DialogKey(0, 7), 1)
        shared, _ = await dialog_with(database, SHARED, 1)
        assert await self.tasks(database) == []
        async with database.write() as session:
            for key in (ANNA, DialogKey(0, 7), DialogKey(102, 7)):
                await set_member_memory(session, key=key, memory=True, now=NOW)
        assert await self.tasks(database) == [direct]
        async with database.write() as session:
            await queries.set_guild_settings(
                session, key=ANNA, settings=GuildSettings(memory=True, max_chat_logs=4), actor_id=None, now=NOW
            )
        assert set(await self.tasks(database)) == {anna, direct, shared}
        async with database.read() as session:
            found = await work.dialogs_to_remember(session, active_after=NOW - timedelta(days=1), limit=9, now=NOW)
            [task] = [each for each in found if each.dialog_id == anna]
        assert (task.key, task.num_pairs, task.num_new, task.guild_chat_logs) == (ANNA, 4, 4, 4)
        await summarised(database, ANNA, anna, 3)
        async with database.read() as session:
            found = await work.dialogs_to_remember(session, active_after=NOW - timedelta(days=1), limit=9, now=NOW)
            [task] = [each for each in found if each.dialog_id == anna]
        assert (task.num_pairs, task.num_new) == (4, 1)

        await PrivacyService(database).opt_out(7)
        assert await self.tasks(database) == [shared]
        assert ben not in await self.tasks(database)

    async def test_one_process_at_a_time(self, database: Database, database_url: str) -> None:
        dialog, _ = await dialog_with(database, ANNA, 1)
        async with database.write() as session:
            await queries.set_guild_settings(
                session, key=ANNA, settings=GuildSettings(memory=True), actor_id=None, now=NOW
            )
            await set_member_memory(session, key=ANNA, memory=True, now=NOW)
        other = Database(database_url)
        async with database.write() as session:
            assert await work.claim_dialog(session, dialog_id=dialog, now=NOW)
            assert not await work.claim_dialog(session, dialog_id=dialog + 99, now=NOW)
        async with other.write() as session:
            assert not await work.claim_dialog(session, dialog_id=dialog, now=NOW)
            assert await work.dialogs_to_remember(session, active_after=NOW, limit=9, now=NOW) == ()
            late = NOW + work.LONGEST_CLAIM + timedelta(seconds=1)
            assert await work.claim_dialog(session, dialog_id=dialog, now=late), "no work takes so long"
        await other.close()
        async with database.write() as session:
            assert await work.claim_dialog(session, dialog_id=dialog, now=NOW), "its process has ended"
            await work.facts_looked_for(session, key=BEN, dialog_id=dialog, turn_id=5)
            await work.facts_looked_for(session, key=ANNA, dialog_id=dialog, turn_id=3)
            await work.release_dialog(session, dialog_id=dialog, pause=timedelta(minutes=1), now=NOW)
        assert await self.tasks(database) == []
        assert await self.tasks(database, NOW + timedelta(minutes=2)) == [dialog]
        async with database.read() as session:
            [task] = await work.dialogs_to_remember(session, active_after=NOW, limit=9, now=NOW + timedelta(minutes=2))
        assert task.facts_to_turn_id == 3
