"""Applications on one database: what one does not see of another, whose rows are whose, what the guard refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.orm import aliased

from models import queries
from models.application import TERMINAL, current_application, ours
from models.database import Database
from models.errors import DuplicateInteraction
from models.maintenance.cleanup import clean
from models.maintenance.rekey import rekey
from models.queries.administration import blocks, figures, members, purges
from models.queries.administration.purges import begin_purge
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
from models.queries.application import (
    applications,
    enter_application,
    give_up_application,
    started_applications,
)
from models.queries.deletion.retention import RetentionLimits
from models.queries.dialogs.turn_info import turn_info
from models.queries.memory.facts import add_fact, facts_of
from models.queries.memory.forgetting import forget_guild_before, forgotten_until
from models.queries.privacy import erasure, holdings, opt_outs
from models.queries.replies import delivery_messages, processes, recovery, stop_requests, unfinished_deliveries
from models.queries.tenants import threads
from models.queries.tenants.member_settings import set_member_memory
from models.queries.tenants.scenes import add_character
from models.statement_guard import GUARD, PARTS, SHARED_BY_ALL, StatementRefused
from models.tables import Base, BoundThread, Dialog, Fact, Guild, Report, ReportSpeaker, Turn, TurnFile
from models.types import (
    DialogKey,
    GuildSettings,
    MemberSettings,
    Place,
    PurgeScope,
    ReportedAnswer,
    Shard,
    StopRequester,
    TurnResult,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)
FIRST, SECOND = 11, 22
LIMITS = RetentionLimits(timedelta(days=7), timedelta(days=30), timedelta(days=7))
ALL = PurgeScope("everything", NOW)
REPORTED = ReportedAnswer("hi", "ho", [{"role": "user", "content": "hi"}], True, frozenset({8}))
DONE = TurnResult("ho", 1, 1, "stop", 1, 1)


@asynccontextmanager
async def bots(url: str, *application_ids: int) -> AsyncIterator[tuple[Database, ...]]:
    """A database handle for each application, guarded as the bot's is."""
    async with AsyncExitStack() as stack:
        opened = []
        for application_id in application_ids:
            opened.append(Database(url, application_id=application_id, guarded=True))
            stack.push_async_callback(opened[-1].close)
        yield tuple(opened)


async def write(database: Database, query: Callable[..., Any], **arguments: Any) -> Any:
    async with database.write() as session:
        return await query(session, **arguments)


async def fill(database: Database, *, interaction: int = 900) -> int:
    """Something of the same guild and member in every table that has an application; return the turn."""
    place = Place(
        100, 5, 7, interaction, application_id=database.application_id, reply_token="token", message_ids=(55,)
    )
    await write(database, queries.guild_joined, guild_id=100, now=NOW)
    turn = await write(
        database, queries.begin_turn, key=KEY, text="hi", limit=9, interaction_id=interaction, place=place, now=NOW
    )
    assert turn.history == ()
    assert await write(database, queries.finish_turn, key=KEY, turn_id=turn.turn_id, result=DONE, now=NOW)
    persona = await write(
        database, queries.set_persona, key=KEY, level="guild", name="Hook", prompt=f"of {database.application_id}",
        author_id=7, now=NOW,
    )  # fmt: skip
    await write(database, add_character, key=KEY, place_id=5, persona_id=persona.persona_id, limit=3, now=NOW)
    settings = GuildSettings(
        persona_face="profile", memory=True, channels=frozenset({5}), locked_channels=frozenset({6}),
        channel_scopes=((5, "channel"),), filter_words=("brick",),
    )  # fmt: skip
    await write(database, queries.set_guild_settings, key=KEY, settings=settings, actor_id=7, now=NOW)
    await write(database, queries.set_member_settings, key=KEY, settings=MemberSettings(locale="de"), now=NOW)
    await write(database, add_fact, key=KEY, text=f"fact of {database.application_id}", now=NOW)
    await write(database, threads.bind_thread, key=DialogKey(100, 7, 77), parent_id=5, now=NOW)
    await write(database, processes.beat, lease=timedelta(minutes=1))
    await write(database, queries.block_member, key=DialogKey(100, 9), blocked=True, reason="r", actor_id=7, now=NOW)
    await write(database, begin_purge, key=KEY, now=NOW)
    outcome = await write(
        database, add_report, key=KEY, turn_id=turn.turn_id, channel_id=5, reason="r", answer=REPORTED, limit=9, now=NOW
    )
    assert outcome == "stored"
    await write(database, set_report_channel, key=KEY, channel_id=5, actor_id=7, now=NOW)
    by = StopRequester(7)
    await write(database, stop_requests.request_stop, interaction_id=interaction, by=by, now=NOW)
    return int(turn.turn_id)


async def counts(url: str, application_id: int) -> dict[str, int]:
    """The rows of an application by table, as the operator sees them."""
    database = Database(url)
    found = {}
    async with database.read() as session:
        for table in Base.metadata.sorted_tables:
            if "application_id" in table.c and table.name not in SHARED_BY_ALL:
                rows = select(func.count()).select_from(table).where(table.c.application_id == application_id)
                found[table.name] = int(await session.scalar(rows) or 0)
        turns = select(Turn.id).where(Turn.application_id == application_id)
        found["turn_files"] = int(
            await session.scalar(select(func.count(TurnFile.turn_id)).where(TurnFile.turn_id.in_(turns))) or 0
        )
        kept = select(Report.id).where(Report.application_id == application_id)
        spoken = select(func.count(ReportSpeaker.report_id)).where(ReportSpeaker.report_id.in_(kept))
        found["report_speakers"] = int(await session.scalar(spoken) or 0)
    await database.close()
    return found


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


class TestWhoseRows:
    async def enter(self, database: Database, application_id: int, seconds: int = 0) -> int | None:
        at = NOW + timedelta(seconds=seconds)
        found: int | None = await write(database, enter_application, application_id=application_id, now=at)
        return found

    async def test_the_first_application_takes_what_the_terminal_has(self, database_url: str) -> None:
        async with bots(database_url, TERMINAL, FIRST, SECOND) as (terminal, first, second):
            await fill(terminal)
            before = await counts(database_url, TERMINAL)
            assert await self.enter(first, FIRST) == TERMINAL
            assert await counts(database_url, FIRST) == before
            assert set((await counts(database_url, TERMINAL)).values()) == {0}
            assert await self.enter(first, FIRST) is None
            await fill(terminal)  # from now on it has its own
            assert await self.enter(second, SECOND, 1) is None
            assert set((await counts(database_url, SECOND)).values()) == {0}
            assert await counts(database_url, TERMINAL) == before
            async with terminal.read() as session:
                assert await started_applications(session) == (FIRST, SECOND)
                assert await applications(session) == (TERMINAL, FIRST, SECOND)

    async def test_two_processes_of_the_first_application_start_at_once(self, database_url: str) -> None:
        async with bots(database_url, TERMINAL, FIRST, FIRST) as (terminal, one, other):
            await fill(terminal)
            before = await counts(database_url, TERMINAL)
            taken = await asyncio.gather(
                *(
                    bot.run(lambda session: enter_application(session, application_id=FIRST, now=NOW))
                    for bot in (one, other)
                )
            )
            assert sorted(taken, key=str) == [TERMINAL, None]
            assert await counts(database_url, FIRST) == before

    async def test_adoption_moves_the_rows_of_one_application_only(self, database_url: str) -> None:
        async with bots(database_url, FIRST, SECOND, 33) as (first, second, third):
            await self.enter(first, FIRST)
            await self.enter(second, SECOND, 1)
            await fill(first)
            await fill(second)
            before = await counts(database_url, FIRST)
            give_up = {"now": NOW}
            assert await write(first, give_up_application, application_id=FIRST, **give_up)
            assert not await write(first, give_up_application, application_id=SECOND, **give_up)
            assert await self.enter(second, SECOND, 2) is None  # it is not new here
            assert await self.enter(third, 33, 3) == FIRST
            assert await counts(database_url, 33) == before
            assert await counts(database_url, SECOND) == before
            async with third.read() as session:
                assert await started_applications(session) == (SECOND, 33)

    async def test_an_application_that_starts_again_keeps_its_rows(self, database_url: str) -> None:
        async with bots(database_url, FIRST, SECOND) as (first, second):
            await self.enter(first, FIRST)
            await fill(first)
            await write(first, give_up_application, application_id=FIRST, now=NOW)
            assert await self.enter(first, FIRST, 1) is None
            assert await self.enter(second, SECOND, 2) is None

    async def test_before_the_login_no_statement_runs(self, sqlite_url: str) -> None:
        database = Database(sqlite_url, application_id=None)
        with pytest.raises(RuntimeError, match="logged in"):
            await write(database, queries.history, key=KEY, limit=9)
        await database.close()

    async def test_each_transaction_has_the_application_of_its_database(self, sqlite_url: str) -> None:
        async with bots(sqlite_url, FIRST, SECOND) as (first, second), first.read():
            assert current_application() == FIRST
            async with second.read():
                assert current_application() == SECOND
            assert current_application() == FIRST


class TestGuard:
    def refuses(self, statement: Any) -> bool:
        from sqlalchemy.dialects import postgresql, sqlite

        refused = set()
        for dialect in (sqlite.dialect(), postgresql.dialect()):
            try:
                GUARD.check(str(statement.compile(dialect=dialect)))
                refused.add(False)
            except StatementRefused:
                refused.add(True)
        [answer] = refused
        return answer

    def test_a_statement_without_the_application_is_refused(self) -> None:
        for table in Base.metadata.sorted_tables:
            if table.name in SHARED_BY_ALL:
                continue
            column = next(iter(table.c))
            statements = (select(column), table.delete(), select(func.count()).select_from(table))
            for statement in statements:
                assert self.refuses(statement), f"{statement}"
            if "application_id" in table.c:
                assert self.refuses(select(table.c.application_id)), table.name
                assert not self.refuses(select(column).where(table.c.application_id == 1)), table.name
            else:
                assert table.name in PARTS, f"{table.name} has neither an application nor a row that it is a part of"
                link = table.c[PARTS[table.name][0]]
                assert not self.refuses(select(column).where(link == 1)), table.name

    def test_each_place_counts(self) -> None:
        other = aliased(Dialog)
        mine = select(Dialog.id).where(ours(Dialog))
        assert not self.refuses(mine)
        assert self.refuses(mine.where(exists().where(other.id > Dialog.id)))
        assert not self.refuses(mine.where(exists().where(ours(other), other.id > Dialog.id)))
        assert self.refuses(mine.join(Guild, Guild.id == Dialog.guild_id))
        assert self.refuses(select(Fact.id).where(Fact.guild_id.in_(select(Guild.id)), ours(Fact)))
        assert self.refuses(select(Dialog.id, Guild.id).where(ours(Dialog)))
        found = select(Turn.id).where(Turn.id == 1).subquery()
        assert self.refuses(select(found.c.id, Dialog.id))
        assert not self.refuses(select(found.c.id, Dialog.id).where(ours(Dialog)))
        assert self.refuses(select(Turn.id).join(Dialog).where(Turn.id == 1))
        assert not self.refuses(select(Turn.id).join(Dialog).where(Turn.id == 1, ours(Dialog)))

    def test_a_row_that_was_found_may_be_changed_by_its_id(self) -> None:
        assert not self.refuses(update(Dialog).where(Dialog.id == 1).values(name="x"))
        assert not self.refuses(delete(Dialog).where(Dialog.id.in_([1, 2])))
        assert self.refuses(update(Dialog).where(Dialog.guild_id == 1).values(name="x"))
        assert self.refuses(delete(BoundThread).where(BoundThread.thread_id == 1))  # a snowflake: others have it too
        assert self.refuses(select(Dialog.name).where(Dialog.id == 1))

    async def test_it_stands_before_every_statement_of_the_bot(self, database_url: str) -> None:
        async with bots(database_url, FIRST) as (database,):
            async with database.write() as session:
                with pytest.raises(StatementRefused):
                    await session.execute(update(Dialog).values(name="x"))
            async with database.read() as session:
                with pytest.raises(StatementRefused):
                    await session.execute(text("SELECT count(*) FROM turns"))
