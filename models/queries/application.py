"""Which Discord applications the database serves, and what becomes of rows when one takes the place of another."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import and_, delete, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import TERMINAL
from models.queries.common import dialect
from models.queries.scope import cross_application
from models.statement_guard import SHARED_BY_ALL
from models.tables import Base, Delivery, DiscordApplication, Guild, User


@cross_application("the operator's overview")
async def applications(session: AsyncSession) -> tuple[int, ...]:
    """Return the applications that have rows here or were started here, by id; 0 is the terminal."""
    found = set(await session.scalars(select(DiscordApplication.application_id)))
    for table in (Guild, User):
        found |= set(await session.scalars(select(table.application_id).distinct()))
    return tuple(sorted(found))


@cross_application("the operator's overview")
async def started_applications(session: AsyncSession) -> tuple[int, ...]:
    """Return the applications whose bots were started with this database, the first one first."""
    rows = select(DiscordApplication.application_id).order_by(DiscordApplication.since)
    return tuple(await session.scalars(rows))


@cross_application("an application that is new here takes what belongs to none, or to one that was given up")
async def enter_application(session: AsyncSession, *, application_id: int, now: datetime) -> int | None:
    """Record that this application's bot was started; return the application whose rows it took over, if any.

    The first of all takes those of the terminal, which are all that there are. Called at each start.
    """
    if dialect(session) == "postgresql":  # SQLite has one writer anyway
        await session.execute(text("LOCK TABLE discord_application IN EXCLUSIVE MODE"))
    others = select(DiscordApplication).order_by(DiscordApplication.since)
    known = {row.application_id: row for row in await session.scalars(others)}
    if application_id in known:
        known[application_id].given_up_at = None
        await session.flush()
        return None
    session.add(DiscordApplication(application_id=application_id, since=now))
    await session.flush()
    left = next((row.application_id for row in known.values() if row.given_up_at is not None), None)
    source = TERMINAL if not known else left
    if source is None:
        return None
    await _move_rows(session, source, application_id)
    await session.execute(delete(DiscordApplication).where(DiscordApplication.application_id == source))
    return source


@cross_application("the operator replaces one application by another")
async def give_up_application(session: AsyncSession, *, application_id: int, now: datetime) -> bool:
    """Let the rows of an application belong to the next one that is new here. False if another one waits for that.

    Deliveries that are not finished are given up: another application cannot change what this one has shown.
    """
    waiting = select(DiscordApplication.application_id).where(DiscordApplication.given_up_at.is_not(None))
    if set(await session.scalars(waiting)) - {application_id}:
        return False
    of_it = and_(Delivery.application_id == application_id, Delivery.state != "done")
    await session.execute(update(Delivery).where(of_it).values(state="done", reply_token=None, owner=None))
    row = update(DiscordApplication).where(DiscordApplication.application_id == application_id)
    await session.execute(row.values(given_up_at=now))
    return True


async def _move_rows(session: AsyncSession, source: int, target: int) -> None:
    """Give all rows of one application to another one, which has none.

    Rows that others refer to by their application are copied first and deleted last, so that no reference breaks.
    """
    tables = [
        table
        for table in Base.metadata.sorted_tables
        if "application_id" in table.c and table.name not in SHARED_BY_ALL
    ]
    referred = {key.referred_table for table in tables for key in table.foreign_key_constraints if len(key.columns) > 1}
    for table in tables:
        of_source = table.c.application_id == source
        if table in referred:
            names = [column.name for column in table.columns if column.name != "application_id"]
            rows = select(*(table.c[name] for name in names), literal(target)).where(of_source)
            await session.execute(table.insert().from_select([*names, "application_id"], rows, include_defaults=False))
        else:
            await session.execute(table.update().where(of_source).values(application_id=target))
    for table in reversed(tables):
        if table in referred:
            await session.execute(table.delete().where(table.c.application_id == source))
