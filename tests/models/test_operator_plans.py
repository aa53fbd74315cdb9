"""Query plans of the operator's page: no list, no conversation, no search and no figure scans a large table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from models import queries
from models.database import Database
from models.queries.operator import conversation, lists, looks, overview, personas, search
from models.tables import AuditEntry, Dialog, User
from models.types import DialogKey, TurnResult
from models.types.operator import SearchScope
from tests.models.test_plans import recorded, scans

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, application_id=11, guarded=True)
    yield opened
    await opened.close()


async def test_no_page_scans_a_large_table(database: Database) -> None:
    async with database.write() as session:
        persona = await queries.set_persona(session, key=KEY, level="guild", name="P", prompt="p", author_id=7, now=NOW)
        turn = await queries.begin_turn(session, key=KEY, text="hi", limit=10, interaction_id=5, now=NOW)
        result = TurnResult("ho", 1, 9, "stop", 1, 2)
        await queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=result, now=NOW)
    place, dialog_id = (NOW + timedelta(days=1), 99), turn.dialog_id
    with recorded(database) as statements:
        async with database.read() as session:
            assert await lists.guild_rows(session, after=-1, limit=5)
            assert await lists.guild_member_rows(session, guild_id=100, after=0, limit=5)
            assert await lists.member_rows(session, after=0, limit=5)
            assert await lists.dialog_rows(session, state="open", before=place, limit=5)
            await lists.dialog_rows(session, state="ended", before=place, limit=5)
            assert await lists.guild_dialog_rows(session, guild_id=100, before=place, limit=5)
            assert await lists.member_dialog_rows(session, guild_id=100, user_id=7, before=99, limit=5)
            given = {"guild_id": 100, "dialog_id": dialog_id, "after": 0, "limit": 5}
            assert (await conversation.turn_views(session, words=True, **given))[0].reply == "ho"
            await conversation.is_private(session, key=KEY)
            assert await personas.persona_rows(session, guild_id=100, after=0, limit=5)
            row = await personas.persona_row(session, guild_id=100, persona_id=persona.persona_id or 0)
            assert row
            assert await personas.versions_of(session, row=row)
            for scope in (SearchScope(), SearchScope(100, None, True), SearchScope(100, 7, False)):
                piece = await search.search_piece(session, words=("h",), scope=scope, before=99)
                assert [hit.turn_id for hit in piece.hits] == [turn.turn_id]
            assert (await overview.operator_figures(session, since=NOW.date())).answers
            assert await overview.days_of_use(session, first=NOW.date(), last=NOW.date())
        async with database.write() as session:
            assert await conversation.end_dialog_by_operator(session, guild_id=100, dialog_id=dialog_id, now=NOW)
    assert await scans(database, statements) == []


async def test_a_page_reads_no_more_than_it_shows(sqlite_url: str) -> None:
    """Of a list with many rows a page steps through few: SQLite counts the steps of its machine."""
    database = Database(sqlite_url, application_id=11)
    try:
        steps = {}
        for first, last in ((1, 100), (100, 3000)):
            await _add_members(database, range(first, last))
            steps[last] = await _steps(database)
        for name, before in steps[100].items():
            assert steps[3000][name] <= before * 1.5 + 20, name
    finally:
        await database.close()


async def _add_members(database: Database, members: range) -> None:
    """Each with an open and an ended dialog in one guild, and an entry in the audit log."""
    common = {"guild_id": 100, "opened_at": NOW, "last_active_at": NOW}
    async with database.write() as session:
        await queries.guild_joined(session, guild_id=100, now=NOW)
        await session.execute(insert(User), [{"id": member, "first_seen_at": NOW} for member in members])
        open_now = [{**common, "user_id": member, "ended_at": None} for member in members]
        ended = [{**common, "user_id": member, "ended_at": NOW} for member in members]
        await session.execute(insert(Dialog), [*open_now, *ended])
        entries = [{"guild_id": 100, "action": "x", "created_at": NOW, "target_id": member} for member in members]
        await session.execute(insert(AuditEntry), entries)


async def _steps(database: Database) -> dict[str, int]:
    """How many times 10 steps SQLite's machine takes for the first page of each list."""
    found = {}
    async with database.read() as session:
        raw = (await (await session.connection()).get_raw_connection()).driver_connection
        assert raw is not None
        count = [0]

        def tick() -> int:
            count[0] += 1
            return 0

        pages = {
            "members": lambda: lists.guild_member_rows(session, guild_id=100, after=0, limit=10),
            "people": lambda: lists.member_rows(session, after=0, limit=10),
            "open": lambda: lists.dialog_rows(session, state="open", before=None, limit=10),
            "ended": lambda: lists.dialog_rows(session, state="ended", before=None, limit=10),
            "guild": lambda: lists.guild_dialog_rows(session, guild_id=100, before=None, limit=10),
            "audit": lambda: looks.audit_rows(session, before=None, limit=10),
        }
        for name, page in pages.items():
            count[0] = 0
            await raw.set_progress_handler(tick, 10)
            await page()
            await raw.set_progress_handler(None, 0)
            found[name] = count[0]
    return found
