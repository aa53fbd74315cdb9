"""Cleanup of removed guilds, expired bookkeeping and unused users, batch by batch.

Each deleting function handles one batch in the caller's transaction and returns how many rows it deleted; 0 means done.
Called by models/maintenance/cleanup.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import num_deleted
from models.queries.deletion.retention import RetentionLimits, cutoff
from models.queries.scope import cross_tenant
from models.tables import (
    AuditEntry,
    Base,
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
    rows = await session.scalars(
        select(Guild.id).where(ours(Guild), Guild.removed_at < cutoff(now, limits.guild_grace))
    )
    return tuple(rows)


@cross_tenant("a removed guild is purged as a whole")
async def purge_guild(session: AsyncSession, *, guild_id: int, limit: int) -> int:
    """Delete a batch of the guild's rows, its row in `guilds` last; 0 when nothing is left.

    What the guild chose, its blocks and its purges are deleted with that row, by cascade.
    """
    dialogs = select(Dialog.id).where(ours(Dialog), Dialog.guild_id == guild_id)
    usage = (DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day)
    settings = (MemberSettingsRow.guild_id, MemberSettingsRow.user_id)
    batches: tuple[tuple[type[Base], Any, Any], ...] = (
        (Turn, Turn.id, select(Turn.id).where(Turn.dialog_id.in_(dialogs))),
        (Dialog, Dialog.id, dialogs),
        (Persona, Persona.id, select(Persona.id).where(Persona.guild_id == guild_id)),
        (Fact, Fact.id, select(Fact.id).where(Fact.guild_id == guild_id)),
        (Report, Report.id, select(Report.id).where(Report.guild_id == guild_id)),
        (AuditEntry, AuditEntry.id, select(AuditEntry.id).where(AuditEntry.guild_id == guild_id)),
        (DailyUsage, tuple_(*usage), select(*usage).where(DailyUsage.guild_id == guild_id)),
        (MemberSettingsRow, tuple_(*settings), select(*settings).where(MemberSettingsRow.guild_id == guild_id)),
        (Guild, Guild.id, select(Guild.id).where(Guild.id == guild_id)),
    )
    for table, primary_key, rows in batches:
        batch = primary_key.in_(rows.where(ours(table)).limit(limit))
        gone = delete(table).where(ours(table), batch).execution_options(synchronize_session=False)
        if deleted := num_deleted(await session.execute(gone)):
            return deleted
    return 0


@cross_tenant("expired bookkeeping of every tenant")
async def delete_expired_bookkeeping(session: AsyncSession, *, now: datetime, limit: int) -> int:
    """Delete a batch each of old interaction ids, requests to stop, usage rows and audit entries."""
    seen = select(ProcessedInteraction.interaction_id).where(
        ours(ProcessedInteraction), ProcessedInteraction.processed_at < now - timedelta(days=INTERACTION_DAYS)
    )
    stops = select(StopRequest.interaction_id).where(
        ours(StopRequest), StopRequest.requested_at < now - timedelta(days=INTERACTION_DAYS)
    )
    day = (now - timedelta(days=USAGE_DAYS)).date()
    used = select(DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day).where(ours(DailyUsage), DailyUsage.day < day)
    old = AuditEntry.created_at < now - timedelta(days=AUDIT_DAYS)
    acts = select(AuditEntry.id).where(ours(AuditEntry), old).order_by(AuditEntry.id)
    identity = tuple_(DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day)
    deleted = 0
    for statement in (
        delete(ProcessedInteraction).where(
            ours(ProcessedInteraction), ProcessedInteraction.interaction_id.in_(seen.limit(limit))
        ),
        delete(StopRequest).where(ours(StopRequest), StopRequest.interaction_id.in_(stops.limit(limit))),
        delete(DailyUsage).where(ours(DailyUsage), identity.in_(used.limit(limit))),
        delete(AuditEntry).where(ours(AuditEntry), AuditEntry.id.in_(acts.limit(limit))),
    ):
        deleted += num_deleted(await session.execute(statement.execution_options(synchronize_session=False)))
    return deleted


@cross_tenant("a user without any other row belongs to no tenant")
async def unused_users(session: AsyncSession, *, after: int, limit: int) -> tuple[tuple[int, ...], int | None]:
    """Return those of the next `limit` users after id `after` that no row refers to.

    And the `after` of the next users, None at the end. For a read transaction: it may take a while.
    """
    page = select(User.id).where(ours(User), User.id > after).order_by(User.id).limit(limit).subquery()
    last_id = await session.scalar(select(func.max(page.c.id)))
    if last_id is None:
        return (), None
    unused = select(User.id).where(ours(User), User.id > after, User.id <= last_id, *_is_unused()).order_by(User.id)
    return tuple(await session.scalars(unused)), last_id


@cross_tenant("a user without any other row belongs to no tenant")
async def delete_unused_users(session: AsyncSession, *, first_id: int, last_id: int) -> int:
    """Delete those of the users from `first_id` to `last_id` that no row refers to; return how many.

    A range, not a list: lists of many lengths would be as many statements, which SQLite's driver keeps.
    """
    gone = delete(User).where(ours(User), User.id.between(first_id, last_id), *_is_unused())
    return num_deleted(await session.execute(gone.execution_options(synchronize_session=False)))


def _is_unused() -> list[ColumnElement[bool]]:
    """Return the conditions that no row refers to a User."""
    unused = [
        ~exists().where(ours(table), column == User.id)
        for table, column in (
            (Dialog, Dialog.user_id),
            (Turn, Turn.author_id),
            (BoundThread, BoundThread.creator_id),
            (Persona, Persona.owner_id),
            (PersonaAssignment, PersonaAssignment.user_id),
            (PersonaAssignment, PersonaAssignment.set_by),
            (Fact, Fact.user_id),
            (MemberSettingsRow, MemberSettingsRow.user_id),
            (DailyUsage, DailyUsage.user_id),
            (AuditEntry, AuditEntry.actor_id),
            (AuditEntry, AuditEntry.target_id),
            (MemberBlock, MemberBlock.blocked_by),
            (Report, Report.author_id),
            (Report, Report.reporter_id),
            (Report, Report.closed_by),
        )
    ]
    written = (PersonaVersion.persona_id == Persona.id, PersonaVersion.author_id == User.id)
    return [*unused, ~exists().where(ours(Persona), *written).correlate(User)]
