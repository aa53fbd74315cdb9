"""At the end of the month: is everything there that was answered, nothing twice, and nothing older than its retention?

Reads the database as the bot left it. Each fault is a sentence; no fault, no sentence.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, text

from bot.guilds.retention import limits_of
from bot.settings import Settings
from models.application import ours
from models.database import Database
from models.maintenance.cleanup import preview
from models.tables import Turn
from models.urls import sqlite_path
from tests.bench.month.acts import ANSWERED, NEVER_ENDED, NOT_HEARD, SILENT, Question
from tests.bench.month.engine import END, QUESTION, answer_to
from tests.discord.harness import bot_database

SLACK = timedelta(hours=6)
"""Of the retention: between two cleanups, and until what is deleted by the last one was looked at."""
NOT_BEGUN = (NOT_HEARD, NEVER_ENDED, SILENT)


async def faults(url: str, questions: Sequence[Question], *, left: set[int], settings: dict[str, str]) -> list[str]:
    """What is wrong. `left`: guilds that the bot is no longer in, whose data may be gone."""
    found = list(_sqlite_faults(url))
    database = await bot_database(url)
    try:
        found += await _retention_faults(database, settings)
        async with database.read() as session:
            rows = (await session.execute(text("SELECT interaction_id, status, user_text, reply FROM turns"))).all()
    finally:
        await database.close()
    stored = {row.interaction_id: row for row in rows}
    names = Counter(name for row in rows for name in QUESTION.findall(row.user_text)[:1])
    found += [f"{name} has {count} turns" for name, count in names.items() if count > 1]
    found += [f"a turn is {row.status} for ever" for row in rows if row.status == "pending"]
    kept_since = datetime.now(UTC) - timedelta(days=int(settings["RETENTION_DAYS"])) + SLACK
    for question in questions:
        turn = stored.get(question.id)
        if question.outcome == ANSWERED and question.asked_at > kept_since.timestamp():
            if turn is None and question.guild_id not in left:
                found.append(f"{question.name} was answered and is not stored")
            elif turn is not None and not (answer_to(question.name) in (turn.reply or "") and END in turn.reply):
                found.append(f"{question.name} is stored with another answer")
        if question.outcome in NOT_BEGUN and turn is not None and turn.status == "done":
            found.append(f"{question.name} is stored with an answer that nobody saw: {question.outcome}")
    return found


async def _retention_faults(database: Database, settings: dict[str, str]) -> list[str]:
    """What a cleanup would still do, and rows that are too old whatever a cleanup thinks."""
    given = Settings(_env_file=None, **{name.lower(): value for name, value in settings.items()})  # type: ignore[arg-type]
    now = datetime.now(UTC)
    limits = limits_of(given)
    limits = replace(limits, session_ttl=limits.session_ttl + SLACK, retention=limits.retention + SLACK)
    due = await preview(database, limits=limits, now=now)
    found = [f"a cleanup would find {value} {name}" for name, value in due.rows() if value]
    oldest = now - 2 * limits.retention - limits.session_ttl
    async with database.read() as session:
        if old := await session.scalar(select(func.count(Turn.id)).where(ours(Turn), Turn.created_at < oldest)):
            found.append(f"{old} turns are older than {oldest:%Y-%m-%d}")
    return found


def _sqlite_faults(url: str) -> Iterator[str]:
    if (path := sqlite_path(url)) is None:
        return
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for pragma in ("integrity_check", "foreign_key_check"):
            for row in database.execute(f"PRAGMA {pragma}"):
                if row != ("ok",):
                    yield f"{pragma}: {row}"


def log_faults(log: str) -> list[str]:
    """Errors in the bot's log, by what they say."""
    events = Counter(re.findall(r'"event": "([^"]*)"[^\n]*"level": "error"', log))
    events.update(re.findall(r'"level": "error"[^\n]*"event": "([^"]*)"', log))
    return [f"in the log: {event} ({count} times)" for event, count in events.items()]
