"""Cleanup: what is ended, purged and kept, and a clock that cannot be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from bot.guilds.retention import RetentionJobs, limits_of
from bot.settings import Settings, load_settings
from models import queries
from models.database import Database
from models.maintenance.cleanup import CleanupReport, clean, preview
from models.queries import inspection
from models.queries.administration import purges
from models.queries.administration.reports import add_report
from models.queries.deletion.retention import RetentionLimits
from models.queries.dialogs.conversations import conversations, new_conversation
from models.types import DialogKey, GuildSettings, MemberSettings, PurgeScope, ReportedAnswer
from tests.bot.metric_values import value
from tests.bot.stored_turns import add_turn, turn_result

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
LIMITS = RetentionLimits(session_ttl=7 * DAY, retention=30 * DAY, guild_grace=7 * DAY)


async def talk(database: Database, key: DialogKey, at: datetime, *, text: str = "hi", finish: bool = True) -> int:
    async with database.write() as session:
        return await add_turn(session, key, at, text, "ho" if finish else None)


async def states(database: Database) -> dict[int, str]:
    """user -> open / idle / reset / removed, for the dialogs that are still there."""
    async with database.read() as session:
        lines = await inspection.dialog_lines(session, limit=1000)
    return {line.user_id: line.end_reason or "open" for line in lines}


async def counts(database: Database) -> dict[str, int]:
    async with database.read() as session:
        return await inspection.table_counts(session)


@contextmanager
def turns_deleted(database: Database) -> Iterator[list[int]]:
    """How many turns each transaction deletes, of those that delete any."""
    counts, uncommitted = [], 0

    def after_execute(_connection: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal uncommitted
        if statement.startswith("DELETE FROM turns "):
            uncommitted += cursor.rowcount

    def on_commit(_connection: Connection) -> None:
        nonlocal uncommitted
        if uncommitted:
            counts.append(uncommitted)
        uncommitted = 0

    engine = database.engines[0].sync_engine
    event.listen(engine, "after_cursor_execute", after_execute)
    event.listen(engine, "commit", on_commit)
    yield counts
    event.remove(engine, "after_cursor_execute", after_execute)
    event.remove(engine, "commit", on_commit)


class TestEnding:
    async def test_only_idle_dialogs_end(self, database: Database) -> None:
        await talk(database, DialogKey(100, 1), NOW - 8 * DAY)
        await talk(database, DialogKey(100, 2), NOW - 6 * DAY)
        report = await clean(database, limits=LIMITS, now=NOW)
        assert report.ended_dialogs == 1
        assert await states(database) == {1: "idle", 2: "open"}
        assert (await counts(database))["turns"] == 2

    async def test_a_guild_has_its_own_idle_time(self, database: Database) -> None:
        for user, guild in ((1, 100), (2, 101)):
            await talk(database, DialogKey(guild, user), NOW - 2 * DAY)
        async with database.write() as session:
            chosen = GuildSettings(session_ttl=timedelta(hours=36))
            await queries.set_guild_settings(session, key=DialogKey(100, 1), settings=chosen, actor_id=1, now=NOW)
        await clean(database, limits=LIMITS, now=NOW)
        assert await states(database) == {1: "idle", 2: "open"}

    async def test_fault_40_a_running_turn_is_never_touched(self, database: Database) -> None:
        key = DialogKey(100, 1)
        await talk(database, key, NOW - 9 * DAY)
        turn = await talk(database, key, NOW - timedelta(minutes=5), finish=False)
        hurried = RetentionLimits(timedelta(seconds=1), timedelta(0), timedelta(0))
        report = await clean(database, limits=hurried, now=NOW)
        assert (report.ended_dialogs, report.interrupted_turns) == (0, 0)
        async with database.write() as session:
            result = turn_result("late")
            assert await queries.finish_turn(session, key=key, turn_id=turn, result=result, now=NOW)

    async def test_fault_40_not_even_in_a_dialog_that_was_reset(self, database: Database) -> None:
        key = DialogKey(100, 1)
        await talk(database, key, NOW - timedelta(minutes=1), finish=False)
        async with database.write() as session:
            await queries.end_dialog(session, key=key, now=NOW - timedelta(minutes=1))
        report = await clean(database, limits=RetentionLimits(DAY, timedelta(0), DAY), now=NOW)
        assert report.purged_dialogs_and_turns == 0

    async def test_a_turn_of_a_dead_process_is_interrupted(self, database: Database) -> None:
        dead = Database(database.url)
        await talk(dead, DialogKey(100, 1), NOW - timedelta(minutes=1), finish=False)
        await dead.close()
        report = await clean(database, limits=LIMITS, now=NOW)
        assert report.interrupted_turns == 1
        async with database.read() as session:
            assert (await inspection.totals(session))["interrupted_turns"] == 1


class TestParked:
    """Conversations that their member left for another one, or that have a name."""

    KEY = DialogKey(100, 1)

    async def known(self, database: Database) -> list[tuple[str | None, bool]]:
        async with database.read() as session:
            return [(each.name, each.in_use) for each in await conversations(session, key=self.KEY)]

    async def test_a_parked_one_outlives_the_session_and_not_the_retention(self, database: Database) -> None:
        await talk(database, self.KEY, NOW - 20 * DAY)
        async with database.write() as session:
            await new_conversation(session, key=self.KEY, name=None, now=NOW - 20 * DAY)
        await talk(database, self.KEY, NOW - DAY)
        report = await clean(database, limits=LIMITS, now=NOW)
        assert (report.ended_dialogs, report.purged_dialogs_and_turns) == (0, 0)
        assert await self.known(database) == [(None, True), (None, False)]
        expected = await preview(database, limits=LIMITS, now=NOW + 11 * DAY)
        report = await clean(database, limits=LIMITS, now=NOW + 11 * DAY)
        assert report.purged_dialogs_and_turns == expected.purged_dialogs_and_turns == 2
        assert await self.known(database) == []

    async def test_an_idle_one_with_a_name_is_parked(self, database: Database) -> None:
        async with database.write() as session:
            await new_conversation(session, key=self.KEY, name="Travel", now=NOW - 9 * DAY)
        await talk(database, self.KEY, NOW - 9 * DAY)
        report = await clean(database, limits=LIMITS, now=NOW)
        assert report.ended_dialogs == 1
        assert await self.known(database) == [("Travel", False)]
        assert (await clean(database, limits=LIMITS, now=NOW)).ended_dialogs == 0
        await talk(database, self.KEY, NOW, text="Anew")
        assert await self.known(database) == [(None, True), ("Travel", False)]

    async def test_a_shorter_retention_of_the_member_holds_for_it(self, database: Database) -> None:
        await talk(database, self.KEY, NOW - 6 * DAY)
        async with database.write() as session:
            await new_conversation(session, key=self.KEY, name=None, now=NOW - 6 * DAY)
            settings = MemberSettings(retention_days=5)
            await queries.set_member_settings(session, key=self.KEY, settings=settings, now=NOW)
        await clean(database, limits=LIMITS, now=NOW)
        assert (await counts(database))["turns"] == 0


class TestPurging:
    async def ended(self, database: Database, key: DialogKey, days_ago: int) -> None:
        await talk(database, key, NOW - days_ago * DAY)
        async with database.write() as session:
            await queries.end_dialog(session, key=key, now=NOW - days_ago * DAY)

    async def test_after_the_retention(self, database: Database) -> None:
        await self.ended(database, DialogKey(100, 1), 31)
        await self.ended(database, DialogKey(100, 2), 29)
        report = await clean(database, limits=LIMITS, now=NOW)
        assert report.purged_dialogs_and_turns == 2
        assert await states(database) == {2: "reset"}

    async def test_by_guild_and_by_member_whichever_is_shorter(self, database: Database) -> None:
        """100 keeps 25 days, 101 keeps 10; member 2 wants 5 days in 100, member 4 wants 90 days in 101.

        102 chose 60 before the operator lowered the maximum to 30.
        """
        ages = (
            (1, 100, 20),
            (2, 100, 6),
            (3, 101, 11),
            (4, 101, 11),
            (5, 101, 9),
            (6, 0, 6),
            (7, 102, 31),
            (8, 102, 29),
        )
        for user, guild, age in ages:
            await self.ended(database, DialogKey(guild, user), age)
        async with database.write() as session:
            for guild, days in ((100, 25), (101, 10), (102, 60)):
                await queries.set_guild_settings(
                    session,
                    key=DialogKey(guild, 1),
                    settings=GuildSettings(retention_days=days),
                    actor_id=1,
                    now=NOW,
                )
            for guild, user, days in ((100, 2, 5), (101, 4, 90), (0, 6, 5)):
                await queries.set_member_settings(
                    session, key=DialogKey(guild, user), settings=MemberSettings(retention_days=days), now=NOW
                )
        await clean(database, limits=LIMITS, now=NOW)
        assert set(await states(database)) == {1, 5, 8}

    async def test_old_pairs_of_a_dialog_that_never_rests(self, database: Database) -> None:
        key = DialogKey(100, 1)
        for days in (40, 35, 20, 1):
            await talk(database, key, NOW - days * DAY, text=f"{days} days ago")
        report = await clean(database, limits=LIMITS, now=NOW)
        assert report.purged_old_turns == 2
        async with database.read() as session:
            pairs = await queries.history(session, key=key, limit=10)
        assert [pair.user for pair in pairs] == ["20 days ago", "1 days ago"]

    async def test_small_batches_have_transactions_of_their_own(self, database: Database) -> None:
        key = DialogKey(100, 1)
        async with database.write() as session:
            for _ in range(110):
                await add_turn(session, key, NOW - 40 * DAY, "x" * 500, "y" * 500)
            await queries.end_dialog(session, key=key, now=NOW - 40 * DAY)
        with turns_deleted(database) as deleted:
            report = await clean(database, limits=LIMITS, now=NOW, batch_size=25)
        assert report.purged_dialogs_and_turns == 111
        assert (await counts(database))["turns"] == 0
        assert sum(deleted) == 110
        assert max(deleted) <= 25  # for how long they hold their locks: docs/database-performance.md

    async def test_the_file_shrinks_and_the_text_is_gone(self, sqlite_url: str) -> None:
        database, path = Database(sqlite_url), Path(sqlite_url.removeprefix("sqlite:///"))
        for user in range(30):
            await talk(database, DialogKey(100, user), NOW - 40 * DAY, text="secret-of-the-ancients " * 800)
            async with database.write() as session:
                await queries.end_dialog(session, key=DialogKey(100, user), now=NOW - 40 * DAY)
        await database.truncate_wal()
        before = (await asyncio.to_thread(path.stat)).st_size
        report = await clean(database, limits=LIMITS, now=NOW)
        assert report.released_pages > 0
        assert (await asyncio.to_thread(path.stat)).st_size < before / 2
        assert (await asyncio.to_thread(path.with_name(path.name + "-wal").stat)).st_size == 0
        assert b"secret-of-the-ancients" not in await asyncio.to_thread(path.read_bytes)
        await database.close()

    async def test_users_of_whom_nothing_is_left_go_too(self, database: Database) -> None:
        await self.ended(database, DialogKey(100, 1), 31)
        async with database.write() as session:
            await queries.set_persona(
                session, key=DialogKey(100, 2), level="member", name="N", prompt="P", author_id=2, now=NOW
            )
        assert (await clean(database, limits=LIMITS, now=NOW + 500 * DAY)).forgotten_users == 1
        async with database.read() as session:
            assert (await inspection.totals(session))["users"] == 1

    async def test_users_who_are_in_use_cost_no_write(self, sqlite_url: str) -> None:
        """Else each cleanup of a database with many users would be many small writes, for which chats wait."""
        kinds: list[str] = []
        database = Database(sqlite_url, on_transaction=lambda kind, *_: kinds.append(kind))
        later, writes = NOW + 500 * DAY, []
        for num_users in (1, 100):
            for user in range(num_users):
                await talk(database, DialogKey(100, user), later - DAY)
            await self.ended(database, DialogKey(100, 500), 31)
            kinds.clear()
            assert (await clean(database, limits=LIMITS, now=later, batch_size=10)).forgotten_users == 1
            writes.append(kinds.count("write"))
        assert writes[0] == writes[1]
        await database.close()

    async def test_a_cleanup_has_the_same_statements_for_few_and_many_users(self, sqlite_url: str) -> None:
        """Else the driver would keep a compiled statement for each number of users, on each connection."""
        statements: set[str] = set()
        database = Database(sqlite_url)
        for engine in database.engines:
            event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: statements.add(given[2]))
        found = []
        for num_users in (1, 3, 7):
            for user in range(num_users):
                await self.ended(database, DialogKey(100, 500 + user), 31)
            statements.clear()
            report = await clean(database, limits=LIMITS, now=NOW + 500 * DAY)
            assert report.forgotten_users == num_users
            found.append(frozenset(each for each in statements if "users" in each))
        assert found[0] == found[1] == found[2]
        await database.close()

    async def test_more_users_than_are_looked_at_at_once_all_go(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("models.maintenance.cleanup.USERS_A_LOOK", 3)
        for user in range(8):
            await self.ended(database, DialogKey(100, user), 31)
        await talk(database, DialogKey(100, 4), NOW + 499 * DAY)
        assert (await clean(database, limits=LIMITS, now=NOW + 500 * DAY, batch_size=2)).forgotten_users == 7
        async with database.read() as session:
            assert (await inspection.totals(session))["users"] == 1


class TestGuilds:
    async def test_fault_35_purged_after_the_grace_period(self, database: Database) -> None:
        for guild in (100, 101):
            key = DialogKey(guild, 1)
            await talk(database, key, NOW)
            async with database.write() as session:
                await queries.set_persona(session, key=key, level="guild", name="N", prompt="P", author_id=1, now=NOW)
                await queries.set_guild_settings(
                    session, key=key, settings=GuildSettings(channels=frozenset({5})), actor_id=1, now=NOW
                )
        async with database.write() as session:
            assert await queries.guild_removed(session, guild_id=100, now=NOW) == 1
        before = await counts(database)
        await clean(database, limits=LIMITS, now=NOW + 6 * DAY)
        assert await counts(database) == before
        report = await clean(database, limits=LIMITS, now=NOW + 7 * DAY + timedelta(seconds=1))
        assert report.purged_guilds == 1
        after = await counts(database)
        halved = ("guilds", "dialogs", "turns", "personas", "persona_versions", "guild_settings", "guild_channels",
                  "daily_usage", "audit_log")  # fmt: skip
        assert {name: after[name] for name in halved} == {name: before[name] // 2 for name in halved}
        assert after["users"] == 1

    async def test_fault_35_a_return_restores_everything_but_the_open_dialog(self, database: Database) -> None:
        key = DialogKey(100, 1)
        await talk(database, key, NOW)
        async with database.write() as session:
            await queries.set_persona(session, key=key, level="guild", name="N", prompt="P", author_id=1, now=NOW)
            await queries.guild_removed(session, guild_id=100, now=NOW)
        async with database.write() as session:
            assert await queries.guild_joined(session, guild_id=100, now=NOW + 3 * DAY)
        assert (await clean(database, limits=LIMITS, now=NOW + 20 * DAY)).purged_guilds == 0
        async with database.read() as session:
            found = await queries.effective_persona(session, key=key)
        assert found is not None
        assert found.prompt == "P"

    async def test_fault_35_removals_during_an_absence_are_found_outages_are_not_removals(
        self, database: Database
    ) -> None:
        async with database.write() as session:
            for guild in (100, 101):
                await queries.guild_joined(session, guild_id=guild, now=NOW)
        await talk(database, DialogKey(999, 1), NOW)  # a guild of the terminal, which the gateway never named
        async with database.write() as session:
            # READY lists unavailable guilds as well, so 101 is present although it is down.
            assert await queries.reconcile_guilds(session, present={101}, now=NOW) == (100,)
            assert await queries.reconcile_guilds(session, present={100, 101}, now=NOW) == ()
        assert (await clean(database, limits=LIMITS, now=NOW + 30 * DAY)).purged_guilds == 0


class TestDryRun:
    async def test_it_counts_what_the_run_does_and_changes_nothing(self, database: Database) -> None:
        await talk(database, DialogKey(100, 1), NOW - 8 * DAY)
        await talk(database, DialogKey(100, 2), NOW - 40 * DAY)
        async with database.write() as session:
            await queries.end_dialog(session, key=DialogKey(100, 2), now=NOW - 35 * DAY)
        before = await counts(database)
        expected = await preview(database, limits=LIMITS, now=NOW)
        assert await counts(database) == before
        done = await clean(database, limits=LIMITS, now=NOW)
        assert (expected.ended_dialogs, expected.purged_dialogs_and_turns) == (1, 2)
        assert (done.ended_dialogs, done.purged_dialogs_and_turns) == (1, 2)

    async def test_it_counts_what_admins_deleted_and_old_reports(self, database: Database) -> None:
        key, hidden_at = DialogKey(100, 1), NOW - timedelta(hours=1)
        turn_id = await talk(database, key, NOW - DAY)
        scope = PurgeScope("conversations", counted_at=hidden_at)
        async with database.write() as session:
            report: dict[str, Any] = {"turn_id": turn_id, "channel_id": 5, "reason": "r", "limit": 9}
            report["answer"] = ReportedAnswer("hi", "ho")
            for days in (29, 31):
                made = NOW - days * DAY
                other = DialogKey(100, days)
                assert await add_report(session, key=other, now=made, **report) == "stored"
            purge_id = await purges.begin_purge(session, key=key, now=hidden_at)
            assert await purges.hide_conversations(
                session, key=key, scope=scope, purge_id=purge_id, now=hidden_at, limit=9
            ) == 1  # fmt: skip
        expected = await preview(database, limits=LIMITS, now=NOW)
        done = await clean(database, limits=LIMITS, now=NOW)
        assert (done.purged_by_admins, done.purged_reports) == (3, 1)  # the turn, its dialog, the purge
        assert (expected.purged_by_admins, expected.purged_reports) == (3, 1)


class Clock:
    def __init__(self) -> None:
        self.wall = NOW
        self.steady = 1000.0

    def pass_time(self, by: timedelta) -> None:
        self.wall += by
        self.steady += by.total_seconds()

    def jobs(self, database: Database, settings: Settings) -> RetentionJobs:
        return RetentionJobs(
            database=database, settings=settings, wall=lambda: self.wall, monotonic=lambda: self.steady
        )


@pytest.fixture
def settings() -> Settings:
    return load_settings(env_file=None)


class TestClock:
    @pytest.mark.parametrize("jump", [DAY * 30, -timedelta(hours=1)], ids=["a month on", "an hour back"])
    async def test_fault_39_a_jump_skips_the_run(self, database: Database, settings: Settings, jump: timedelta) -> None:
        clock = Clock()
        jobs = clock.jobs(database, settings)
        before = [value("cleanup_runs_total", outcome=outcome) for outcome in ("done", "skipped")]
        await talk(database, DialogKey(100, 1), NOW)
        clock.pass_time(timedelta(hours=1))
        assert isinstance(await jobs.run_once(), CleanupReport)
        clock.pass_time(timedelta(hours=1))
        clock.wall += jump
        assert await jobs.run_once() is None
        clock.wall -= jump
        assert await jobs.run_once() is None  # the way back is a jump as well
        clock.pass_time(timedelta(hours=1))
        assert isinstance(await jobs.run_once(), CleanupReport)
        assert await states(database) == {1: "open"}
        runs = [value("cleanup_runs_total", outcome=outcome) for outcome in ("done", "skipped")]
        assert runs == [before[0] + 2, before[1] + 2]

    async def test_fault_39_too_many_at_once_waits_for_a_second_opinion(
        self, database: Database, settings: Settings
    ) -> None:
        clock = Clock()
        for user in range(12):
            await talk(database, DialogKey(100, user), NOW - 8 * DAY)
        jobs = clock.jobs(database, settings)
        assert await jobs.run_once() is None
        assert set((await states(database)).values()) == {"open"}
        clock.pass_time(timedelta(hours=1))
        report = await jobs.run_once()
        assert report is not None
        assert report.ended_dialogs == 12

    async def test_a_database_that_is_away_puts_the_run_off(self, settings: Settings) -> None:
        nowhere = Database("sqlite:////nonexistent/folder/x.db")
        assert await Clock().jobs(nowhere, settings).run_once() is None
        await nowhere.close()

    async def test_the_scheduler_runs_at_once(self, database: Database, settings: Settings) -> None:
        await talk(database, DialogKey(100, 1), NOW - 400 * DAY)
        jobs = RetentionJobs(database=database, settings=settings)
        jobs.start()
        for _ in range(400):
            if await states(database) == {1: "idle"}:
                break
            await asyncio.sleep(0.05)
        await jobs.close()
        assert await states(database) == {1: "idle"}

    def test_limits_come_from_the_settings(self) -> None:
        limits = limits_of(load_settings(env_file=None, session_ttl="36h", retention_days=5))
        assert (limits.session_ttl, limits.retention) == (timedelta(hours=36), 5 * DAY)
