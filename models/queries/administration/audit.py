"""Pages of a guild's audit log, by what was done and by whom it was done or to whom."""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.tables import AuditEntry
from models.types import AuditRecord, DialogKey


async def audit_page(
    session: AsyncSession,
    *,
    key: DialogKey,
    actions: str = "",
    member_id: int | None = None,
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> tuple[AuditRecord, ...]:
    """Return entries of the key's guild, newest first: the last ones, those before one, or the first after one.

    `actions`: what their action begins with. `member_id`: who did it, or to whom it was done.
    """
    mine = select(AuditEntry).where(AuditEntry.guild_id == key.guild_id)
    if actions:
        mine = mine.where(AuditEntry.action.startswith(actions, autoescape=True))
    if member_id is not None:
        mine = mine.where(or_(AuditEntry.actor_id == member_id, AuditEntry.target_id == member_id))
    if after is not None:
        rows = list(await session.scalars(mine.where(AuditEntry.id > after).order_by(AuditEntry.id).limit(limit)))
        rows.reverse()
    else:
        older = mine if before is None else mine.where(AuditEntry.id < before)
        rows = list(await session.scalars(older.order_by(AuditEntry.id.desc()).limit(limit)))
    return tuple(
        AuditRecord(row.guild_id, row.actor_id, row.target_id, row.action, row.details, row.created_at, row.id)
        for row in rows
    )
