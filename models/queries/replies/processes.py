"""Which processes of the bot are alive: each renews a row, by the clock of the database.

Called by bot/chat/heartbeat.py. A process that does not renew its row in time is marked as lost by another one, and its
turns count as cut off (recovery.py). If it was alive after all (its host was frozen, or could not reach the database),
its next heartbeat removes the mark, and dialogs/finish.py lets it finish its turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import THIS_APPLICATION, ours
from models.base import UTCDateTime
from models.process_owner import owner_is_alive
from models.queries.common import insert
from models.queries.scope import cross_tenant
from models.tables import Delivery, Process, Turn

FORGET_AFTER = timedelta(hours=1)
"""How long the row of an ended process is kept: longer than any of its turns waits to be ended."""


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat: the time of the database, and whether another process had marked this one as lost."""

    now: datetime
    was_lost: bool


@cross_tenant("processes belong to no tenant")
async def beat(session: AsyncSession, *, lease: timedelta) -> Beat:
    """Let this process count as alive for `lease` from now, and forget processes that ended long ago."""
    owner = session.info["owner"]
    now = await _database_time(session)
    lost_at = await session.scalar(select(Process.lost_at).where(ours(Process), Process.owner == owner))
    alive = {"alive_until": now + lease, "lost_at": None}
    await session.execute(
        insert(session, Process)
        .values(owner=owner, **alive)
        .on_conflict_do_update(index_elements=["owner"], set_={**alive, "application_id": THIS_APPLICATION})
    )
    await session.execute(delete(Process).where(ours(Process), Process.alive_until < now - FORGET_AFTER))
    return Beat(now, lost_at is not None)


@cross_tenant("processes belong to no tenant")
async def mark_lost(session: AsyncSession, *, may_judge: Callable[[datetime], bool]) -> tuple[str, ...]:
    """Mark the processes that did not renew their rows in time; return those newly marked.

    `may_judge` says at the database's time whether to do so. A process of this host is left alone while the operating
    system says that it runs.
    """
    now = await _database_time(session)
    if not may_judge(now):
        return ()
    overdue = (ours(Process), Process.alive_until < now, Process.lost_at.is_(None))
    owners = await session.scalars(select(Process.owner).where(*overdue))
    gone = [owner for owner in owners if owner != session.info["owner"] and not owner_is_alive(owner)]
    if not gone:
        return ()
    # `overdue` once more: one of them may have renewed its row meanwhile.
    marked = update(Process).where(Process.owner.in_(gone), *overdue).values(lost_at=now).returning(Process.owner)
    return tuple(await session.scalars(marked))


@cross_tenant("processes belong to no tenant")
async def lost_processes(session: AsyncSession) -> frozenset[str]:
    """Return the owners that are marked as lost."""
    return frozenset(await session.scalars(select(Process.owner).where(ours(Process), Process.lost_at.is_not(None))))


@cross_tenant("processes belong to no tenant")
async def overdue_processes(session: AsyncSession) -> tuple[str, ...]:
    """Return the owners whose heartbeats are overdue, while this process's own is not: else the database was away."""
    now = await _database_time(session)
    own = (ours(Process), Process.owner == session.info["owner"], Process.alive_until >= now)
    if await session.scalar(select(Process.owner).where(*own)) is None:
        return ()
    return tuple(await session.scalars(select(Process.owner).where(ours(Process), Process.alive_until < now)))


@cross_tenant("processes belong to no tenant")
async def sign_off(session: AsyncSession) -> None:
    """Remove the row of this process, which ends; but not if it leaves turns or deliveries for others to end."""
    owner = session.info["owner"]
    pending = exists().where(ours(Turn), Turn.status == "pending", Turn.owner == owner)
    undelivered = exists().where(ours(Delivery), Delivery.state != "done", Delivery.owner == owner)
    await session.execute(delete(Process).where(ours(Process), Process.owner == owner, ~pending, ~undelivered))


def is_dead(owner: str | None, lost: frozenset[str]) -> bool:
    """Whether a process is dead, given those that are lost. What its own host sees goes before its heartbeat."""
    alive = owner_is_alive(owner)
    return owner in lost if alive is None else not alive


async def _database_time(session: AsyncSession) -> datetime:
    """Return the time by the clock of the database, which all its processes share; SQLite's is that of the host."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    clock = func.strftime("%Y-%m-%d %H:%M:%f", "now", type_=UTCDateTime) if sqlite else func.now(type_=UTCDateTime)
    return (await session.scalars(select(clock))).one()
