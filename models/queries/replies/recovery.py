"""After a crash: find the pending turns of dead processes and mark them interrupted.

A process is dead if this host says so, or, on another host, if its heartbeat stopped (processes.py). Called every few
seconds by bot/chat/recovery.py, and by every cleanup, for all tenants at once. What was shown of such turns is up to
deliveries.py.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.replies.deliveries import close_deliveries_of
from models.queries.replies.processes import is_dead, lost_processes
from models.queries.scope import cross_tenant
from models.tables import Turn

# Discord's interaction tokens are valid for 15 minutes, and no reply takes longer than its token.
LONGEST_TURN = timedelta(minutes=15)


@cross_tenant("a crash cuts off the turns of every tenant")
async def dead_turns(session: AsyncSession, *, now: datetime) -> tuple[int, ...]:
    """Return the ids of pending turns that no process works on: their owner is dead, or they are too old."""
    rows = await session.execute(
        select(Turn.id, Turn.owner, Turn.created_at).where(ours(Turn), Turn.status == "pending")
    )
    lost = await lost_processes(session)
    return tuple(row.id for row in rows if is_dead(row.owner, lost) or now - row.created_at > LONGEST_TURN)


@cross_tenant("a crash cuts off the turns of every tenant")
async def interrupt_dead_turns(session: AsyncSession, *, now: datetime) -> int:
    """Mark dead turns interrupted; return how many. Their deliveries stay unfinished."""
    dead = await dead_turns(session, now=now)
    if not dead:
        return 0
    changed = await session.scalars(
        update(Turn)
        .where(Turn.id.in_(dead), Turn.status == "pending")
        .values(status="interrupted", finished_at=now)
        .returning(Turn.id)
    )
    return len(changed.all())


@cross_tenant("a process looks after its own turns, of every tenant")
async def interrupt_abandoned_turns(
    session: AsyncSession, *, active: Collection[int], begun_before: datetime, now: datetime
) -> int:
    """End this process's pending turns that are not `active` and were begun before this time; return how many.

    Their deliveries are done: what their messages say was said by this process, which knows better than we do.
    """
    rows = await session.scalars(
        select(Turn.id).where(
            ours(Turn),
            Turn.status == "pending",
            Turn.owner == session.info.get("owner"),
            Turn.created_at < begun_before,
        )
    )
    abandoned = [turn_id for turn_id in rows if turn_id not in active]
    if not abandoned:
        return 0
    changed = await session.scalars(
        update(Turn)
        .where(Turn.id.in_(abandoned), Turn.status == "pending")
        .values(status="interrupted", finished_at=now)
        .returning(Turn.id)
    )
    ended = changed.all()
    await close_deliveries_of(session, turn_ids=ended)
    return len(ended)
