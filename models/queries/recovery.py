"""After a crash: find the pending turns of dead processes, mark them interrupted, and edit their deferred messages.

A process is dead if this host says so, or, on another host, if its heartbeat stopped (processes.py). Called every few
seconds by bot/chat/recovery.py and bot/cogs/interrupted_replies.py, and by every cleanup, for all tenants at once.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.processes import is_dead, lost_processes
from models.queries.scope import cross_tenant
from models.tables import Turn
from models.types import InterruptedReply

# Discord's interaction tokens are valid for 15 minutes, and no reply takes longer than its token.
LONGEST_TURN = timedelta(minutes=15)
TOKEN_LIFE = timedelta(minutes=15)


@cross_tenant("a crash cuts off the turns of every tenant")
async def dead_turns(session: AsyncSession, *, now: datetime) -> tuple[int, ...]:
    """Return the ids of pending turns that no process works on: their owner is dead, or they are too old."""
    rows = await session.execute(select(Turn.id, Turn.owner, Turn.created_at).where(Turn.status == "pending"))
    lost = await lost_processes(session)
    return tuple(row.id for row in rows if is_dead(row.owner, lost) or now - row.created_at > LONGEST_TURN)


@cross_tenant("a crash cuts off the turns of every tenant")
async def interrupt_dead_turns(session: AsyncSession, *, now: datetime) -> int:
    """Mark dead turns interrupted; return how many. Their reply tokens stay, for `interrupted_replies`."""
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

    Their reply tokens are cleared: what their messages say was said by this process, which knows better than we do.
    """
    rows = await session.scalars(
        select(Turn.id).where(
            Turn.status == "pending", Turn.owner == session.info.get("owner"), Turn.created_at < begun_before
        )
    )
    abandoned = [turn_id for turn_id in rows if turn_id not in active]
    if not abandoned:
        return 0
    changed = await session.scalars(
        update(Turn)
        .where(Turn.id.in_(abandoned), Turn.status == "pending")
        .values(status="interrupted", reply_token=None, finished_at=now)
        .returning(Turn.id)
    )
    return len(changed.all())


@cross_tenant("a crash cuts off the turns of every tenant")
async def interrupted_replies(session: AsyncSession, *, now: datetime) -> tuple[InterruptedReply, ...]:
    """Return the deferred replies of dead processes whose token is still valid.

    The caller edits each message to say so, then calls `forget_reply_token`.
    """
    rows = await session.execute(
        select(Turn.id, Turn.application_id, Turn.reply_token, Turn.created_at, Turn.owner, Turn.status)
        # Sorted in Python: with ORDER BY, SQLite would scan all turns by id instead of using the partial index.
        .where(Turn.reply_token.is_not(None), Turn.created_at > now - TOKEN_LIFE)
    )
    lost = await lost_processes(session)
    return tuple(
        InterruptedReply(row.id, row.application_id, row.reply_token, row.created_at)
        for row in sorted(rows, key=lambda row: row.id)
        if row.status == "interrupted" or is_dead(row.owner, lost)
    )


@cross_tenant("a crash cuts off the turns of every tenant")
async def waits_for_edit(session: AsyncSession, *, turn_id: int) -> bool:
    """Return whether a turn's message is still to be edited; not if its process was alive and finished it."""
    return await session.scalar(select(Turn.reply_token).where(Turn.id == turn_id)) is not None


@cross_tenant("a crash cuts off the turns of every tenant")
async def forget_reply_token(session: AsyncSession, *, turn_id: int) -> None:
    """Clear a turn's reply token: its message was edited, or cannot be edited any more."""
    await session.execute(update(Turn).where(Turn.id == turn_id, Turn.status != "pending").values(reply_token=None))


@cross_tenant("expired tokens of every tenant")
async def clear_expired_tokens(session: AsyncSession, *, now: datetime, limit: int) -> int:
    """Clear a batch of expired reply tokens; return its size."""
    old = (
        select(Turn.id)
        .where(Turn.reply_token.is_not(None), Turn.created_at <= now - TOKEN_LIFE, Turn.status != "pending")
        .limit(limit)
    )
    changed = await session.scalars(update(Turn).where(Turn.id.in_(old)).values(reply_token=None).returning(Turn.id))
    return len(changed.all())
