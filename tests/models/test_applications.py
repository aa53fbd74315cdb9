"""Applications on one database: what one does not see, end or delete of another."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.fernet import Fernet

from models import queries
from models.database import Database
from models.errors import DuplicateInteraction
from models.maintenance.cleanup import clean
from models.maintenance.rekey import rekey
from models.queries.administration import blocks, figures, members, purges
from models.queries.administration.reports import (
    add_report,
    close_report,
    count_reports,
    delete_report,
    report_channel,
    report_details,
    reports,
    set_report_channel,
)
from models.queries.dialogs.turn_info import turn_info
from models.queries.memory.facts import facts_of
from models.queries.memory.forgetting import forget_guild_before, forgotten_until
from models.queries.privacy import erasure, holdings, opt_outs
from models.queries.replies import delivery_messages, processes, recovery, unfinished_deliveries
from models.queries.tenants.member_settings import set_member_memory
from models.types import DialogKey, GuildSettings, Shard
from tests.models.application_kit import ALL, DONE, FIRST, KEY, LIMITS, NOW, REPORTED, SECOND, bots, counts, fill, write


async def test_two_applications_have_the_same_guild_and_member_each_for_itself(database_url: str) -> None:
    """The same message may mention both bots: its id is that of a turn of each."""
    async with bots(database_url, FIRST, SECOND) as (first, second):
        turns = [await fill(first), await fill(second)]
        assert await counts(database_url, FIRST) == await counts(database_url, SECOND)
        filled = await counts(database_url, FIRST)
        unfilled = {"guild_profiles", "guild_roles", "opt_outs", "turn_files"}
        assert {name for name, count in filled.items() if not count} == unfilled
        with pytest.raises(DuplicateInteraction):
            await write(second, queries.begin_turn, key=KEY, text="x", limit=9, interaction_id=900, now=NOW)
        for database, own, other in ((first, turns[0], turns[1]), (second, turns[1], turns[0])):
            async with database.read() as session:
                assert [pair.turn_id for pair in await queries.history(session, key=KEY, limit=9)] == [own]
                assert await turn_info(session, turn_id=own)
                assert await turn_info(session, turn_id=other) is None
                persona = await queries.effective_persona(session, key=KEY)
                assert persona is not None
                assert persona.prompt == f"of {database.application_id}"
                [fact] = await facts_of(session, key=KEY)
                assert fact.text == f"fact of {database.application_id}"
                # The other bot's message 55 is in the same channel.
                assert await delivery_messages.turn_of_message(session, message_id=55) == own
            assert not await write(database, queries.forget_turn, key=KEY, turn_id=other)


async def test_what_ends_and_deletes_leaves_the_other_application_alone(database_url: str) -> None:
    later = NOW + timedelta(days=400)
    async with bots(database_url, FIRST, SECOND) as (first, second):
        await fill(first)
        await fill(second)
        before = await counts(database_url, SECOND)
        pending = await write(second, queries.begin_turn, key=KEY, text="x", limit=9, now=NOW)
        assert await write(first, recovery.dead_turns, now=later) == ()
        assert await write(first, recovery.interrupt_dead_turns, now=later) == 0
        assert await write(first, unfinished_deliveries.unfinished_deliveries, now=NOW) == ()
        assert await write(first, processes.mark_lost, may_judge=lambda now: True) == ()
        await write(first, queries.fail_turn, key=KEY, turn_id=pending.turn_id, status="failed", error_id=None, now=NOW)
        assert (
            await write(second, queries.forget_turn, key=KEY, turn_id=pending.turn_id) is False
        )  # it is pending still
        assert await write(second, queries.finish_turn, key=KEY, turn_id=pending.turn_id, result=DONE, now=NOW)
        assert await write(second, queries.forget_turn, key=KEY, turn_id=pending.turn_id)
        await write(second, processes.beat, lease=timedelta(minutes=1))

        assert await write(first, queries.reconcile_guilds, present=(), now=NOW) == (100,)
        await write(first, opt_outs.opt_out, user_id=7, now=NOW)
        await clean(first, limits=LIMITS, now=later)
        await write(first, erasure.delete_person_rest, user_id=7, guild_id=None)
        async with first.read() as session:
            assert sum((await holdings.person_counts(session, user_id=7)).values()) == 0
        assert await counts(database_url, SECOND) == before
        async with second.read() as session:
            assert len(await queries.history(session, key=KEY, limit=9)) == 1
            assert await opt_outs.opted_out_since(session, user_id=7) is None


async def test_admins_see_and_change_what_belongs_to_their_bot(database_url: str) -> None:
    """Reports and purges are found by row ids, which the admins of another bot's guild, the same one, may guess."""
    blocked, later = DialogKey(100, 9), NOW + timedelta(minutes=11)
    async with bots(database_url, FIRST, SECOND) as (first, second):
        await fill(first)
        turn_id = await fill(second)
        async with first.read() as session:
            [own] = await purges.due_purges(session, now=later)
        async with second.read() as session:
            [report] = await reports(session, key=KEY, limit=9)
            [due] = await purges.due_purges(session, now=later)
        hide = {"key": KEY, "scope": ALL, "now": NOW, "limit": 9}
        await write(second, purges.hide_conversations, purge_id=due.purge_id, **hide)
        before = await counts(database_url, SECOND)
        of_other = {"key": KEY, "report_id": report.report_id, "actor_id": 7, "now": NOW}
        await write(first, blocks.block_member, key=blocked, blocked=False, actor_id=7, now=NOW)
        assert not await write(first, close_report, closed=True, **of_other)
        assert not await write(first, delete_report, **of_other)
        assert (
            await write(
                first, add_report, key=KEY, turn_id=turn_id, channel_id=5, reason="", answer=REPORTED, limit=9, now=NOW
            )
            == "gone"
        )
        assert not await write(first, purges.keep_purge, key=KEY, purge_id=due.purge_id, now=NOW)
        assert not await write(first, purges.bring_back, key=KEY, purge_id=due.purge_id, now=NOW, limit=9)
        await write(first, purges.end_purge, key=KEY, purge_id=due.purge_id)
        assert not await write(first, purges.delete_hidden, purge=due, now=later, limit=9)
        assert await write(first, purges.hide_conversations, purge_id=own.purge_id, **hide) == 1
        await clean(first, limits=LIMITS, now=later)
        assert await write(first, purges.delete_notes, key=KEY, scope=ALL, limit=9) == 1
        assert await write(first, purges.delete_personas, key=KEY, scope=ALL, limit=9) == 1
        async with first.read() as session:
            assert await purges.due_purges(session, now=later) == ()
            assert await report_details(session, key=KEY, report_id=report.report_id) is None
            assert await count_reports(session, key=KEY) == (1, 1)
        await write(first, set_report_channel, key=KEY, channel_id=None, actor_id=7, now=NOW)
        await write(first, set_member_memory, key=KEY, memory=True, now=NOW)
        await write(second, set_member_memory, key=KEY, memory=True, now=NOW)
        await write(first, forget_guild_before, key=KEY, member_id=None, now=NOW)
        assert await write(second, forgotten_until, key=KEY) is None
        await write(first, queries.set_guild_settings, key=KEY, settings=GuildSettings(), actor_id=7, now=NOW)

        assert await counts(database_url, SECOND) == before
        async with second.read() as session:
            assert await blocks.block_of(session, key=blocked, now=NOW) is not None
            assert len(await blocks.blocks_of_guild(session, key=KEY, now=NOW)) == 1
            assert await report_channel(session, key=KEY) == 5
            assert await report_details(session, key=KEY, report_id=report.report_id) is not None
            assert (await queries.guild_settings(session, key=KEY)).filter_words == ("brick",)
            assert (await members.member_overview(session, key=KEY, days=7, now=NOW)).tokens == 2
            assert (await figures.guild_figures(session, key=KEY, days=7, now=NOW)).days[0].tokens == 2
            actions = {each.action for each in await queries.audit_log(session, key=KEY, limit=99)}
            assert "member.block" in actions
            assert "member.unblock" not in actions
        assert await write(second, purges.bring_back, key=KEY, purge_id=due.purge_id, now=NOW, limit=9) == 1


async def test_a_new_key_is_for_the_words_of_every_application(database_url: str) -> None:
    """Filtered words and blocks of two bots have the same guild, position and member."""
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    for application_id in (FIRST, SECOND):
        database = Database(database_url, application_id=application_id, encryption_keys=(old,))
        settings = GuildSettings(filter_words=(f"word {application_id}",))
        await write(database, queries.set_guild_settings, key=KEY, settings=settings, actor_id=7, now=NOW)
        reason = {"reason": f"reason {application_id}", "actor_id": 7, "now": NOW}
        await write(database, queries.block_member, key=KEY, blocked=True, **reason)
        await database.close()
    database = Database(database_url, encryption_keys=(new, old), guarded=True)
    changed = await rekey(database)
    assert (changed["guild_filter_words"], changed["member_blocks"]) == (2, 2)
    await database.close()
    for application_id in (FIRST, SECOND):
        database = Database(database_url, application_id=application_id, encryption_keys=(new,))
        async with database.read() as session:
            assert (await queries.guild_settings(session, key=KEY)).filter_words == (f"word {application_id}",)
            block = await blocks.block_of(session, key=KEY, now=NOW)
            assert block is not None
            assert block.reason == f"reason {application_id}"
        await database.close()


async def test_ready_of_a_shard_says_nothing_of_the_guilds_of_others(database_url: str) -> None:
    guilds = [number << 22 for number in range(1, 7)]
    async with bots(database_url, FIRST) as (bot,):
        for guild in guilds:
            await write(bot, queries.guild_joined, guild_id=guild, now=NOW)
        for index in range(2):
            shard = Shard(index, 2)
            present = [guild for guild in guilds if shard.has(guild)]
            assert await write(bot, queries.reconcile_guilds, present=present, shard=shard, now=NOW) == ()
        # Another number of shards: each has other guilds than before, and nothing has gone.
        for index in range(3):
            shard = Shard(index, 3)
            present = [guild for guild in guilds if shard.has(guild)]
            assert await write(bot, queries.reconcile_guilds, present=present, shard=shard, now=NOW) == ()
        shard = Shard(1, 3)
        gone, *present = [guild for guild in guilds if shard.has(guild)]
        assert await write(bot, queries.reconcile_guilds, present=present, shard=shard, now=NOW) == (gone,)
