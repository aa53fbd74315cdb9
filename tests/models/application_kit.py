"""Bots of several applications on one database, and rows of the same guild and member for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from models import queries
from models.database import Database
from models.queries.administration.purges import begin_purge
from models.queries.administration.reports import add_report, set_report_channel
from models.queries.deletion.retention import RetentionLimits
from models.queries.memory.facts import add_fact
from models.queries.replies import processes, stop_requests
from models.queries.tenants import threads
from models.queries.tenants.scenes import add_character
from models.statement_guard import SHARED_BY_ALL
from models.tables import Base, Report, ReportSpeaker, Turn, TurnFile
from models.types import (
    DialogKey,
    GuildSettings,
    MemberSettings,
    Place,
    PurgeScope,
    ReportedAnswer,
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
