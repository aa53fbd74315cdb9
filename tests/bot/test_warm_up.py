"""The message that nobody sent: it runs what a real one runs, and leaves nothing behind."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import event, text

from bot.warm_up import warm_up
from models import queries
from models.base import Base
from models.database import Database
from models.queries.replies.deliveries import begin_waiting
from models.types import DialogKey, Place


async def rows(database: Database) -> dict[str, int]:
    async with database.read() as session:
        names = [table.name for table in Base.metadata.sorted_tables]
        return {name: int(await session.scalar(text(f"SELECT count(*) FROM {name}")) or 0) for name in names}


async def test_it_leaves_nothing_behind(database: Database) -> None:
    before = await rows(database)
    await warm_up(database)
    await warm_up(database)
    assert await rows(database) == before


async def test_what_a_message_runs_was_run_before(database: Database) -> None:
    """Not one statement of a member's first question is new."""
    run: list[str] = []
    for engine in database.engines:
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: run.append(args[2]))
    await warm_up(database)
    warm = set(run)
    run.clear()
    key, now = DialogKey(1, 2), datetime.now(UTC)
    place = Place(1, 3, 2, 4, application_id=5, reply_token="token", token_expires_at=now)
    await database.run(lambda session: begin_waiting(session, key=key, place=place, now=now))
    async with database.write() as session:
        await queries.begin_turn(
            session, key=key, text="Hello", limit=9, interaction_id=4, place=place, memory=True, now=now
        )
    assert [each for each in run if each not in warm and not each.startswith(("BEGIN", "SET"))] == []


async def test_a_database_that_is_away_does_not_stop_the_start(database: Database) -> None:
    await database.close()
    away = Database("postgresql+psycopg://nobody@127.0.0.1:9/none")
    await warm_up(away)
    await away.close()
