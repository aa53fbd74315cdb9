"""The audit log: what admins and the operator did, recorded and read. It never holds message or persona text."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import ensure_guild, ensure_user, page_of
from models.queries.scope import cross_tenant
from models.tables import AuditEntry, Guild, User
from models.types import AuditRecord, DialogKey


async def record_audit(
    session: AsyncSession,
    *,
    key: DialogKey,
    actor_id: int | None,
    action: str,
    now: datetime,
    target_id: int | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Record an admin's action in the key's guild. `details` must never hold message or persona text."""
    await ensure_guild(session, key.guild_id, now)
    for person in (actor_id, target_id):
        if person is not None:
            await ensure_user(session, person, now)
    session.add(
        AuditEntry(
            guild_id=key.guild_id,
            actor_id=actor_id,
            target_id=target_id,
            action=action,
            details=json.dumps(details or {}, sort_keys=True),
            created_at=now,
        )
    )
    await session.flush()


@cross_tenant("a deletion may concern every guild, and its record names no member")
async def record_receipt(
    session: AsyncSession,
    *,
    guild_id: int | None,
    actor_id: int | None,
    action: str,
    details: dict[str, Any],
    now: datetime,
) -> None:
    """Record a deletion by row counts. A guild or an actor that is no longer stored becomes NULL."""
    session.add(
        AuditEntry(
            guild_id=await session.scalar(select(Guild.id).where(ours(Guild), Guild.id == guild_id)),
            actor_id=await session.scalar(select(User.id).where(ours(User), User.id == actor_id)),
            action=action,
            details=json.dumps(details, sort_keys=True),
            created_at=now,
        )
    )
    await session.flush()


async def audit_log(
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
    found = select(AuditEntry).where(ours(AuditEntry), AuditEntry.guild_id == key.guild_id)
    if actions:
        found = found.where(AuditEntry.action.startswith(actions, autoescape=True))
    if member_id is not None:
        found = found.where(or_(AuditEntry.actor_id == member_id, AuditEntry.target_id == member_id))
    return tuple(
        AuditRecord(row.guild_id, row.actor_id, row.target_id, row.action, row.details, row.created_at, row.id)
        for row in await page_of(session, found, AuditEntry.id, before=before, after=after, limit=limit)
    )
