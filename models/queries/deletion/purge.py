"""Cleanup of removed guilds, expired bookkeeping and unused users, batch by batch.

Each deleting function handles one batch in the caller's transaction and returns how many rows it deleted; 0 means done.
Called by models/maintenance/cleanup.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, exists, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import num_deleted
from models.queries.deletion.retention import RetentionLimits, cutoff
from models.queries.scope import cross_tenant
from models.tables import (
    AuditEntry,
    BoundThread,
    DailyUsage,
    Dialog,
    Fact,
    Guild,
    MemberBlock,
    MemberSettingsRow,
    Persona,
    PersonaAssignment,
    PersonaVersion,
    ProcessedInteraction,
    Report,
    StopRequest,
    Turn,
    User,
)

INTERACTION_DAYS = 2  # the gateway replays events of the last minutes only
USAGE_DAYS = 400
AUDIT_DAYS = 400


@cross_tenant("a removed guild is purged as a whole")
async def removed_guilds(session: AsyncSession, *, limits: RetentionLimits, now: datetime) -> tuple[int, ...]:
    """Return the guilds whose grace period is over."""
    rows = await session.scalars(select(Guild.id).where(Guild.removed_at < cutoff(now, limits.guild_grace)))
    return tuple(rows)


@cross_tenant("a removed guild is purged as a whole")
async def purge_guild(session: AsyncSession, *, guild_id: int, limit: int) -> int:
    """Delete a batch of the guild's rows, its row in `guilds` last; 0 when nothing is left.

    Settings, channels, roles and blocks are deleted with that row, by cascade.
    """
    dialogs = select(Dialog.id).where(Dialog.guild_id == guild_id)
    batches: list[tuple[Any, Any]] = [
        (Turn.id, select(Turn.id).where(Turn.dialog_id.in_(dialogs))),
        (Dialog.id, dialogs),
        (Persona.id, select(Persona.id).where(Persona.guild_id == guild_id)),
        (Fact.id, select(Fact.id).where(Fact.guild_id == guild_id)),
        (Report.id, select(Report.id).where(Report.guild_id == guild_id)),
        (AuditEntry.id, select(AuditEntry.id).where(AuditEntry.guild_id == guild_id)),
        (
            tuple_(DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day),
            select(DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day).where(DailyUsage.guild_id == guild_id),
        ),
        (
            tuple_(MemberSettingsRow.guild_id, MemberSettingsRow.user_id),
            select(MemberSettingsRow.guild_id, MemberSettingsRow.user_id).where(MemberSettingsRow.guild_id == guild_id),
        ),
        (Guild.id, select(Guild.id).where(Guild.id == guild_id)),
    ]
    tables = (Turn, Dialog, Persona, Fact, Report, AuditEntry, DailyUsage, MemberSettingsRow, Guild)
    for table, (primary_key, rows) in zip(tables, batches, strict=True):
        result = await session.execute(
            delete(table).where(primary_key.in_(rows.limit(limit))).execution_options(synchronize_session=False)
        )
        if num_deleted(result):
            return num_deleted(result)
    return 0


@cross_tenant("expired bookkeeping of every tenant")
async def delete_expired_bookkeeping(session: AsyncSession, *, now: datetime, limit: int) -> int:
    """Delete a batch each of old interaction ids, requests to stop, usage rows and audit entries."""
    seen = select(ProcessedInteraction.interaction_id).where(
        ProcessedInteraction.processed_at < now - timedelta(days=INTERACTION_DAYS)
    )
    stops = select(StopRequest.interaction_id).where(StopRequest.requested_at < now - timedelta(days=INTERACTION_DAYS))
    day = (now - timedelta(days=USAGE_DAYS)).date()
    used = select(DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day).where(DailyUsage.day < day)
    acts = select(AuditEntry.id).where(AuditEntry.created_at < now - timedelta(days=AUDIT_DAYS)).order_by(AuditEntry.id)
    identity = tuple_(DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day)
    deleted = 0
    for statement in (
        delete(ProcessedInteraction).where(ProcessedInteraction.interaction_id.in_(seen.limit(limit))),
        delete(StopRequest).where(StopRequest.interaction_id.in_(stops.limit(limit))),
        delete(DailyUsage).where(identity.in_(used.limit(limit))),
        delete(AuditEntry).where(AuditEntry.id.in_(acts.limit(limit))),
    ):
        deleted += num_deleted(await session.execute(statement.execution_options(synchronize_session=False)))
    return deleted


@cross_tenant("a user without any other row belongs to no tenant")
async def delete_unused_users(session: AsyncSession, *, after: int, limit: int) -> tuple[int, int | None]:
    """Delete those of the next `limit` users after id `after` that no row refers to.

    Returns how many were deleted and the `after` of the next batch, None at the end.
    """
    ids = tuple(await session.scalars(select(User.id).where(User.id > after).order_by(User.id).limit(limit)))
    if not ids:
        return 0, None
    unused = [
        ~exists().where(column == User.id)
        for column in (
            Dialog.user_id,
            Turn.author_id,
            BoundThread.creator_id,
            Persona.owner_id,
            PersonaVersion.author_id,
            PersonaAssignment.user_id,
            PersonaAssignment.set_by,
            Fact.user_id,
            MemberSettingsRow.user_id,
            DailyUsage.user_id,
            AuditEntry.actor_id,
            AuditEntry.target_id,
            MemberBlock.blocked_by,
            Report.author_id,
            Report.reporter_id,
            Report.closed_by,
        )
    ]
    result = await session.execute(
        delete(User).where(User.id.in_(ids), *unused).execution_options(synchronize_session=False)
    )
    return num_deleted(result), ids[-1]
