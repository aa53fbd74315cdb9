"""The audit log of an application by pages, and the operator's own entries: each look at what members said."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import page_of
from models.queries.operator.paging import OPERATOR
from models.queries.scope import cross_tenant
from models.queries.tenants.audit import record_audit
from models.tables import AuditEntry, User
from models.types import AuditRecord, DialogKey


@cross_tenant(OPERATOR)
async def record_look(
    session: AsyncSession,
    *,
    guild_id: int,
    member_id: int | None,
    action: str,
    details: dict[str, int],
    now: datetime,
) -> None:
    """Record that the operator looks at something of a guild. `member_id`: whose it is, if it is one person's."""
    if member_id is not None:  # a look does not store somebody anew whose data was deleted meanwhile
        member_id = await session.scalar(select(User.id).where(ours(User), User.id == member_id))
    key = DialogKey(guild_id, member_id or 0)
    await record_audit(
        session, key=key, actor_id=None, target_id=member_id, action=action, details=dict(details), now=now
    )


@cross_tenant(OPERATOR)
async def audit_rows(session: AsyncSession, *, before: int | None, limit: int) -> tuple[AuditRecord, ...]:
    """Return entries of all guilds and of none, newest first: the next before an id."""
    found = select(AuditEntry).where(ours(AuditEntry))
    return tuple(
        AuditRecord(row.guild_id, row.actor_id, row.target_id, row.action, row.details, row.created_at, row.id)
        for row in await page_of(session, found, AuditEntry.id, before=before, after=None, limit=limit)
    )
