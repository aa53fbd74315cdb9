"""Query plans: no query of a chat or of a cleanup scans a large table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from models import queries
from models.database import Database
from models.maintenance.cleanup import clean
from models.queries.administration import blocks, figures, members, purges, reports
from models.queries.deletion.retention import RetentionLimits
from models.queries.dialogs.conversations import (
    conversations,
    delete_conversation,
    new_conversation,
    rename_conversation,
    switch_conversation,
)
from models.queries.dialogs.exchanges import count_exchanges, dialog_head, exchanges, visible_dialogs
from models.queries.dialogs.resets import end_dialogs_everywhere
from models.queries.memory import facts, summaries, work
from models.queries.replies import unfinished_deliveries
from models.queries.tenants.member_settings import set_member_memory
from models.statement_guard import crossing
from models.tables import Base
from models.types import DialogKey, DuePurge, GuildSettings, PersonaScope, PurgeScope, ReportedAnswer, TurnResult

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)
BIG_TABLES = ("turns", "dialogs", "reply_variants", "daily_usage", "processed_interactions", "deliveries",
              "personas", "persona_versions", "persona_assignments", "turn_prompts", "facts",
              "dialog_summaries", "reports", "member_blocks")  # fmt: skip

PARTIAL = {
    index.name or "" for table in Base.metadata.sorted_tables for index in table.indexes
    if index.dialect_options["sqlite"]["where"] is not None
}  # fmt: skip


@contextmanager
def everything_allowed() -> Iterator[None]:
    """The guard knows no EXPLAIN."""
    crossing.set(True)
    try:
        yield
    finally:
        crossing.set(False)


@contextmanager
def recorded(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Collect every SELECT, UPDATE and DELETE with its parameters."""
    statements: list[tuple[str, Any]] = []

    def note(connection: Connection, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if statement.split(maxsplit=1)[0] in {"SELECT", "UPDATE", "DELETE"}:
            statements.append((statement, parameters))

    for engine in database.engines:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield statements
    for engine in database.engines:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def scans(database: Database, statements: list[tuple[str, Any]]) -> list[str]:
    """Return the plan steps that scan one of BIG_TABLES, with their statements."""
    found = []
    async with database.write() as session:
        connection = await session.connection()
        if not database.is_sqlite:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, parameters in statements:
            explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
            with everything_allowed():
                rows = (await connection.exec_driver_sql(explain + statement, parameters)).all()
            steps = [str(row[-1]).strip() for row in rows]
            for table in BIG_TABLES:
                found += [
                    f"{step} <- {statement}"
                    for step in steps
                    if step == f"SCAN {table}" or f"Seq Scan on {table} " in step or _is_all_of_an_application(step)
                ]
    return found


def _is_all_of_an_application(step: str) -> bool:
    """Whether SQLite reads all rows of an application, which are nearly all. Partial indexes hold few rows."""
    return step.endswith("(application_id=?)") and not any(name in step for name in PARTIAL)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """As the bot opens it: a statement that names no application is refused."""
    opened = Database(database_url, application_id=11, guarded=True)
    yield opened
    await opened.close()


async def test_a_chat_scans_no_large_table(database: Database) -> None:
    with recorded(database) as statements:
        async with database.write() as session:
            scope = PersonaScope(4, 5, 6)
            turn = await queries.begin_turn(
                session, key=KEY, text="hi", limit=10, interaction_id=5, persona_scope=scope, now=NOW
            )
        done = TurnResult("ho", 1, 1, "stop", 1, 1)
        async with database.write() as session:
            await queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=done, now=NOW)
        async with database.read() as session:
            await queries.history(session, key=KEY, limit=10)
        async with database.write() as session:
            await queries.end_dialog(session, key=KEY, now=NOW)
            await queries.interrupt_dead_turns(session, now=NOW)
            await unfinished_deliveries.unfinished_deliveries(session, now=NOW)
    assert len(statements) > 6
    assert await scans(database, statements) == []


async def test_history_conversations_and_resets_scan_no_large_table(database: Database) -> None:
    shared = DialogKey(100, 7, 5, shared=True)
    done = TurnResult("ho", 1, 1, "stop", 1, 1)
    with recorded(database) as statements:
        for number, key in enumerate((KEY, shared)):
            async with database.write() as session:
                turn = await queries.begin_turn(session, key=key, text="hi", limit=1, interaction_id=number, now=NOW)
                await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=done, now=NOW)
            async with database.read() as session:
                dialogs = tuple(each.dialog_id for each in await visible_dialogs(session, key=key))
                assert await dialog_head(session, key=key)
                assert await exchanges(session, key=key, dialog_ids=dialogs, before=99, limit=5)
                assert await exchanges(session, key=key, dialog_ids=dialogs, after=0, limit=5)
                await count_exchanges(session, key=key, dialog_id=dialogs[0], first=1, last=1, oldest=0)
            async with database.write() as session:
                assert await new_conversation(session, key=key, name="a", now=NOW) == "done"
                first = (await conversations(session, key=key))[-1].dialog_id
                assert await switch_conversation(session, key=key, dialog_id=first, now=NOW) == "done"
                assert await rename_conversation(session, key=key, dialog_id=None, name="b", now=NOW) == "done"
                await queries.end_dialog(session, key=key, now=NOW)
                assert await queries.undo_reset(session, key=key, since=NOW, now=NOW)
                await end_dialogs_everywhere(session, user_id=key.user_id, now=NOW)
                assert await queries.undo_reset(session, key=key, since=NOW, now=NOW)
                assert await delete_conversation(session, key=key, dialog_id=first) == "done"
    assert await scans(database, statements) == []


async def test_what_is_remembered_scans_no_large_table(database: Database) -> None:
    done = TurnResult("ho", 1, 1, "stop", 1, 1)
    with recorded(database) as statements:
        async with database.write() as session:
            await queries.set_guild_settings(
                session, key=KEY, settings=GuildSettings(memory=True), actor_id=None, now=NOW
            )
            await set_member_memory(session, key=KEY, memory=True, now=NOW)
            for _ in range(2):
                turn = await queries.begin_turn(session, key=KEY, text="hi", limit=10, memory=True, now=NOW)
                await queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=done, now=NOW)
        async with database.read() as session:
            [task] = await work.dialogs_to_remember(session, active_after=NOW, limit=9, now=NOW)
            pairs = await work.pairs_to_remember(session, key=KEY, dialog_id=task.dialog_id, after=0, limit=1)
        async with database.write() as session:
            assert await work.claim_dialog(session, dialog_id=task.dialog_id, now=NOW)
            told = {"texts": ["a"], "same": str.__eq__, "now": NOW}
            assert await facts.store_facts(session, key=KEY, turn_id=turn.turn_id, **told) == 1
            assert await summaries.store_summary(
                session, key=KEY, dialog_id=task.dialog_id, text="x", before=None, pairs=pairs, now=NOW
            )
            await queries.forget_last(session, key=KEY, count=2)
            await work.release_dialog(session, dialog_id=task.dialog_id, pause=None, now=NOW)
    assert await scans(database, statements) == []


async def test_what_admins_read_and_do_scans_no_large_table(database: Database) -> None:
    done = TurnResult("ho", 1, 1, "stop", 1, 1)
    scope = PurgeScope("everything", NOW, member_id=7, older_than=NOW)
    with recorded(database) as statements:
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=KEY, text="hi", limit=10, interaction_id=5, now=NOW)
            await queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=done, now=NOW)
            answer = ReportedAnswer("hi", "ho")
            assert await reports.add_report(
                session, key=KEY, turn_id=turn.turn_id, channel_id=5, reason="x", answer=answer, limit=5, now=NOW
            ) == "stored"  # fmt: skip
            await queries.block_member(session, key=KEY, blocked=True, actor_id=8, until=NOW, now=NOW)
        async with database.read() as session:
            assert (await figures.guild_figures(session, key=KEY, days=30, now=NOW)).answers
            assert (await members.member_overview(session, key=KEY, days=30, now=NOW)).messages == 1
            await members.pending_questions(session, key=KEY)
            await blocks.blocks_of_guild(session, key=KEY, now=NOW)
            assert len(await queries.audit_log(session, key=KEY, actions="member", before=99, limit=5)) == 1
            await queries.audit_log(session, key=KEY, member_id=7, after=0, limit=5)
            assert await reports.reports(session, key=KEY, before=99, limit=5)
            await reports.count_reports(session, key=KEY)
            await purges.count_purge(session, key=KEY, scope=scope)
        async with database.write() as session:
            purge_id = await purges.begin_purge(session, key=KEY, now=NOW)
            told = {"key": KEY, "scope": PurgeScope("conversations", NOW), "purge_id": purge_id, "now": NOW, "limit": 5}
            assert await purges.hide_conversations(session, **told) == 1
            assert await purges.bring_back(session, key=KEY, purge_id=purge_id, now=NOW, limit=5) == 1
            assert await purges.hide_conversations(session, **told) == 1
            late = NOW + purges.UNDO_WITHIN
            assert await purges.delete_hidden(session, purge=DuePurge(purge_id, 100), now=late, limit=5) == 2
            await reports.delete_old_reports(session, before=NOW, limit=5)
            await blocks.delete_ended_blocks(session, now=NOW, limit=5)
    assert await scans(database, statements) == []


async def test_a_cleanup_scans_no_large_table(database: Database) -> None:
    limits = RetentionLimits(timedelta(days=7), timedelta(days=30), timedelta(days=7))
    with recorded(database) as statements:
        async with database.write() as session:
            await queries.begin_turn(session, key=KEY, text="hi", limit=10, interaction_id=5, now=NOW)
            await queries.guild_removed(session, guild_id=100, now=NOW - timedelta(days=60))
        await clean(database, limits=limits, now=NOW)
    found = await scans(database, statements)
    # Unused users are looked for only after something was deleted, in batches by primary key.
    assert [line for line in found if "FROM users" not in line] == []
