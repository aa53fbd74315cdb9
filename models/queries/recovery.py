"""After a crash: turns whose process is gone become interrupted, and their waiting messages can still be edited."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.process_owner import owner_is_dead
from models.queries.scope import across_tenants
from models.tables import Turn
from models.types import CutOffReply

# No reply takes longer than its interaction token lives.
LONGEST_TURN = timedelta(minutes=15)
TOKEN_LIFE = timedelta(minutes=15)


@across_tenants("a crash cuts off the turns of every tenant")
async def dead_turns(session: AsyncSession, *, now: datetime) -> tuple[int, ...]:
    """Pending turns that nobody is working on: their process is gone, or they are older than any reply takes."""
    rows = await session.execute(select(Turn.id, Turn.owner, Turn.created_at).where(Turn.status == "pending"))
    return tuple(row.id for row in rows if owner_is_dead(row.owner) or now - row.created_at > LONGEST_TURN)


@across_tenants("a crash cuts off the turns of every tenant")
async def interrupt_dead_turns(session: AsyncSession, *, now: datetime) -> int:
    """Marks them interrupted. Their reply tokens stay for `cut_off_replies`."""
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


@across_tenants("a crash cuts off the turns of every tenant")
async def cut_off_replies(session: AsyncSession, *, now: datetime) -> tuple[CutOffReply, ...]:
    """Waiting messages of dead processes whose token still works: edit each to say so, then `forget_reply_token`."""
    rows = await session.execute(
        select(Turn.id, Turn.application_id, Turn.reply_token, Turn.created_at, Turn.owner, Turn.status)
        # Sorted below: an ORDER BY here would tempt SQLite to walk through all turns instead of these few.
        .where(Turn.reply_token.is_not(None), Turn.created_at > now - TOKEN_LIFE)
    )
    return tuple(
        CutOffReply(row.id, row.application_id, row.reply_token, row.created_at)
        for row in sorted(rows, key=lambda row: row.id)
        if row.status == "interrupted" or owner_is_dead(row.owner)
    )


@across_tenants("a crash cuts off the turns of every tenant")
async def forget_reply_token(session: AsyncSession, *, turn_id: int) -> None:
    """The waiting message was edited, or cannot be any more."""
    await session.execute(update(Turn).where(Turn.id == turn_id, Turn.status != "pending").values(reply_token=None))


@across_tenants("expired tokens are worth nothing to anybody")
async def forget_expired_tokens(session: AsyncSession, *, now: datetime, limit: int) -> int:
    old = (
        select(Turn.id)
        .where(Turn.reply_token.is_not(None), Turn.created_at <= now - TOKEN_LIFE, Turn.status != "pending")
        .limit(limit)
    )
    changed = await session.scalars(update(Turn).where(Turn.id.in_(old)).values(reply_token=None).returning(Turn.id))
    return len(changed.all())
