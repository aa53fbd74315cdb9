"""Deliveries that a dead process left or a living one could not show: taken up, left to a later attempt, given up."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.replies.delivery_rows import close_where, record_of
from models.queries.replies.processes import is_dead, lost_processes
from models.queries.scope import cross_tenant
from models.tables import Delivery
from models.types import DeliveryRecord

MAX_ATTEMPTS = 15
"""How often a delivery is taken up; with the pauses between them, that is about seven hours."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(hours=1)
GIVEN_UP_AFTER = timedelta(days=1)
"""A reply that is older than this is not shown any more."""


@cross_tenant("a crash leaves deliveries of every tenant")
async def unfinished_deliveries(session: AsyncSession, *, now: datetime) -> tuple[DeliveryRecord, ...]:
    """Return the deliveries that no process works on and that are to be finished now, oldest first."""
    rows = await session.scalars(
        select(Delivery)
        .where(ours(Delivery), Delivery.state != "done", Delivery.created_at >= now - GIVEN_UP_AFTER)
        .where(or_(Delivery.retry_at.is_(None), Delivery.retry_at <= now))
    )
    # Sorted in Python: with ORDER BY, SQLite would scan all deliveries by id instead of using the partial index.
    found = sorted(rows, key=lambda row: row.id)
    lost = await lost_processes(session) if found else frozenset()
    dead = [row for row in found if row.owner is None or is_dead(row.owner, lost)]
    return tuple([await record_of(session, row) for row in dead])


@cross_tenant("a crash leaves deliveries of every tenant")
async def take_delivery(session: AsyncSession, *, delivery_id: int, owner: str | None) -> bool:
    """Make this process the one that finishes a delivery. False if another process was faster.

    Of two processes that try at once, only one finds the `owner` that both have read.
    """
    before = Delivery.owner.is_(None) if owner is None else Delivery.owner == owner
    taken = await session.scalar(
        update(Delivery)
        .where(ours(Delivery), Delivery.id == delivery_id, before, Delivery.state != "done")
        .values(owner=session.info.get("owner"), attempts=Delivery.attempts + 1)
        .returning(Delivery.id)
    )
    return taken is not None


@cross_tenant("the sender knows the delivery by its id")
async def owns_delivery(session: AsyncSession, *, delivery_id: int) -> bool:
    """Return whether this process is the one that shows a delivery, and it is not done."""
    mine = (
        ours(Delivery),
        Delivery.id == delivery_id,
        Delivery.owner == session.info.get("owner"),
        Delivery.state != "done",
    )
    return await session.scalar(select(Delivery.id).where(*mine)) is not None


@cross_tenant("the sender knows the delivery by its id")
async def release_delivery(session: AsyncSession, *, delivery_id: int, now: datetime) -> bool:
    """Leave the rest of a delivery to a later attempt, of any process. False if it was tried often enough: it is done.

    Repeated after a lost connection, it changes nothing.
    """
    delivery = await session.scalar(
        select(Delivery).where(ours(Delivery), Delivery.id == delivery_id).execution_options(populate_existing=True)
    )
    if delivery is None or delivery.state == "done":
        return delivery is not None
    if delivery.attempts >= MAX_ATTEMPTS:
        await close_where(session, Delivery.id == delivery_id)
        return False
    delivery.owner = None
    delivery.retry_at = now + min(FIRST_PAUSE * 2**delivery.attempts, LONGEST_PAUSE)
    await session.flush()
    return True


@cross_tenant("cleanup serves every tenant")
async def expire_deliveries(session: AsyncSession, *, now: datetime, limit: int) -> int:
    """Close a batch of deliveries that are given up, and clear expired tokens; return how many."""
    unfinished = and_(ours(Delivery), Delivery.state != "done")
    old = select(Delivery.id).where(unfinished, Delivery.created_at < now - GIVEN_UP_AFTER).limit(limit)
    given_up = (await session.scalars(old)).all()
    await close_where(session, Delivery.id.in_(given_up))
    expired = (
        select(Delivery.id)
        .where(unfinished, Delivery.reply_token.is_not(None), Delivery.token_expires_at < now - timedelta(hours=1))
        .limit(limit)
    )
    cleared = await session.scalars(
        update(Delivery).where(ours(Delivery), Delivery.id.in_(expired)).values(reply_token=None).returning(Delivery.id)
    )
    return len(given_up) + len(cleared.all())
