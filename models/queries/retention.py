"""Cleanup, batch by batch: end idle dialogs, purge ended ones, purge removed guilds, forget what has expired.

Each function does one small batch in the caller's transaction and returns how many rows it touched; 0 means finished.
A dialog with a pending turn is never touched. The counting twins serve the dry run and the clock guard.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from models.queries.scope import across_tenants
from models.tables import (
    AuditEntry,
    DailyUsage,
    Dialog,
    Guild,
    GuildSettingsRow,
    MemberSettingsRow,
    Persona,
    PersonaVersion,
    ProcessedInteraction,
    Turn,
    User,
)

INTERACTION_DAYS = 2  # a gateway replays minutes, not days
USAGE_DAYS = 400
AUDIT_DAYS = 400


@dataclass(frozen=True, slots=True)
class Limits:
    """The operator's defaults, which guilds and members may change for their own dialogs."""

    session_ttl: timedelta
    retention: timedelta
    guild_grace: timedelta


@dataclass(frozen=True, slots=True)
class Retention:
    """Dialogs chosen by their owner, and the time before which what is ended or said there has expired."""

    whose: ColumnElement[bool]
    before: datetime

    @property
    def ended(self) -> ColumnElement[bool]:
        return and_(Dialog.ended_at < self.before, self.whose)


@across_tenants("cleanup serves every tenant by its own settings")
async def idle_cutoffs(session: AsyncSession, *, limits: Limits, now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Conditions that together choose every dialog idle for too long: one a distinct session_ttl."""
    row = GuildSettingsRow
    lengths = await session.scalars(select(row.session_ttl_s).where(row.session_ttl_s.is_not(None)).distinct())
    own = select(row.guild_id).where(row.session_ttl_s.is_not(None))
    usual = and_(Dialog.last_active_at < _earlier(now, limits.session_ttl), Dialog.guild_id.not_in(own))
    return (
        usual,
        *(
            and_(
                Dialog.last_active_at < _earlier(now, timedelta(seconds=seconds)),
                Dialog.guild_id.in_(select(row.guild_id).where(row.session_ttl_s == seconds)),
            )
            for seconds in lengths
            if seconds is not None
        ),
    )


@across_tenants("cleanup serves every tenant by its own settings")
async def retentions(session: AsyncSession, *, limits: Limits, now: datetime) -> tuple[Retention, ...]:
    """Whose text is kept how long, one a distinct length: the guild's or the usual, or the member's where shorter."""
    guild, member = GuildSettingsRow, MemberSettingsRow
    guild_days = await session.scalars(select(guild.retention_days).where(guild.retention_days.is_not(None)).distinct())
    member_days = await session.scalars(
        select(member.retention_days).where(member.retention_days.is_not(None)).distinct()
    )
    own = select(guild.guild_id).where(guild.retention_days.is_not(None))
    found = [Retention(Dialog.guild_id.not_in(own), _earlier(now, limits.retention))]
    for days in guild_days:
        chosen = select(guild.guild_id).where(guild.retention_days == days)
        found.append(Retention(Dialog.guild_id.in_(chosen), _earlier(now, timedelta(days=days or 0))))
    for days in member_days:
        members = select(member.guild_id, member.user_id).where(member.retention_days == days)
        whose = tuple_(Dialog.guild_id, Dialog.user_id).in_(members)
        found.append(Retention(whose, _earlier(now, timedelta(days=days or 0))))
    return tuple(found)


@across_tenants("cleanup serves every tenant by its own settings")
async def end_idle_dialogs(session: AsyncSession, *, idle: ColumnElement[bool], now: datetime, limit: int) -> int:
    chosen = _idle(select(Dialog.id), idle).limit(limit)
    ended = await session.scalars(
        update(Dialog)
        # Said again on the row itself, for the chat that began between choosing and locking it.
        .where(Dialog.id.in_(chosen), Dialog.ended_at.is_(None), idle, ~_busy())
        .values(ended_at=now, end_reason="idle")
        .returning(Dialog.id)
        .execution_options(synchronize_session=False)
    )
    return len(ended.all())


@across_tenants("cleanup serves every tenant by its own settings")
async def purge_ended(session: AsyncSession, *, retention: Retention, limit: int) -> int:
    """Deletes turns of some expired dialogs, then those dialogs once they are empty."""
    # Dialogs first: whoever starts from the turns reads them all when few are left to find.
    chosen = _expired(select(Dialog.id), retention.ended).limit(limit).with_for_update(skip_locked=True)
    ids = tuple(await session.scalars(chosen))
    some = select(Turn.id).where(Turn.dialog_id.in_(ids)).limit(limit)
    gone = await session.execute(delete(Turn).where(Turn.id.in_(some)).execution_options(synchronize_session=False))
    touched = _count(gone)
    if touched < limit:
        emptied = delete(Dialog).where(Dialog.id.in_(ids)).execution_options(synchronize_session=False)
        touched += _count(await session.execute(emptied))
    return touched


@across_tenants("cleanup serves every tenant by its own settings")
async def old_turns(session: AsyncSession, *, retention: Retention, limit: int) -> tuple[int, ...]:
    """Finished pairs past their retention in dialogs that never fall idle. Found while nobody is locked out."""
    long_open = select(Dialog.id).where(Dialog.ended_at.is_(None), Dialog.opened_at < retention.before, retention.whose)
    rows = await session.scalars(
        select(Turn.id)
        .where(Turn.dialog_id.in_(long_open), Turn.created_at < retention.before, Turn.status != "pending")
        .limit(limit)
    )
    return tuple(rows)


@across_tenants("cleanup serves every tenant by its own settings")
async def delete_turns(session: AsyncSession, *, turn_ids: tuple[int, ...]) -> int:
    chosen = delete(Turn).where(Turn.id.in_(turn_ids), Turn.status != "pending")
    return _count(await session.execute(chosen.execution_options(synchronize_session=False)))


@across_tenants("cleanup serves every tenant by its own settings")
async def count_idle(session: AsyncSession, *, idle: ColumnElement[bool]) -> int:
    return await _number(session, _idle(select(func.count(Dialog.id)), idle))


@across_tenants("cleanup serves every tenant by its own settings")
async def count_open(session: AsyncSession) -> int:
    return await _number(session, select(func.count(Dialog.id)).where(Dialog.ended_at.is_(None)))


@across_tenants("cleanup serves every tenant by its own settings")
async def count_expired(session: AsyncSession, *, kept: tuple[Retention, ...]) -> tuple[int, int]:
    """Dialogs and turns that a purge would delete."""
    either = or_(*(retention.ended for retention in kept))
    dialogs = await _number(session, _expired(select(func.count(Dialog.id)), either))
    turns = await _number(session, _expired(select(func.count(Turn.id)).join(Dialog), either))
    return dialogs, turns


@across_tenants("a removed guild is purged as a whole")
async def removed_guilds(session: AsyncSession, *, limits: Limits, now: datetime) -> tuple[int, ...]:
    """Guilds whose grace period is over."""
    rows = await session.scalars(select(Guild.id).where(Guild.removed_at < _earlier(now, limits.guild_grace)))
    return tuple(rows)


@across_tenants("a removed guild is purged as a whole")
async def purge_guild(session: AsyncSession, *, guild_id: int, limit: int) -> int:
    """One batch of everything the guild has; the guild's own row goes last. 0 when nothing is left."""
    dialogs = select(Dialog.id).where(Dialog.guild_id == guild_id)
    batches: list[tuple[Any, Any]] = [
        (Turn.id, select(Turn.id).where(Turn.dialog_id.in_(dialogs))),
        (Dialog.id, dialogs),
        (Persona.id, select(Persona.id).where(Persona.guild_id == guild_id)),
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
    tables = (Turn, Dialog, Persona, AuditEntry, DailyUsage, MemberSettingsRow, Guild)
    for table, (identity, chosen) in zip(tables, batches, strict=True):
        gone = await session.execute(
            delete(table).where(identity.in_(chosen.limit(limit))).execution_options(synchronize_session=False)
        )
        if _count(gone):
            return _count(gone)
    return 0


@across_tenants("expired bookkeeping belongs to nobody's history")
async def forget_bookkeeping(session: AsyncSession, *, now: datetime, limit: int) -> int:
    """Old interaction ids, old usage, old audit entries."""
    seen = select(ProcessedInteraction.interaction_id).where(
        ProcessedInteraction.processed_at < now - timedelta(days=INTERACTION_DAYS)
    )
    day = (now - timedelta(days=USAGE_DAYS)).date()
    used = select(DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day).where(DailyUsage.day < day)
    acts = select(AuditEntry.id).where(AuditEntry.created_at < now - timedelta(days=AUDIT_DAYS)).order_by(AuditEntry.id)
    identity = tuple_(DailyUsage.guild_id, DailyUsage.user_id, DailyUsage.day)
    touched = 0
    for statement in (
        delete(ProcessedInteraction).where(ProcessedInteraction.interaction_id.in_(seen.limit(limit))),
        delete(DailyUsage).where(identity.in_(used.limit(limit))),
        delete(AuditEntry).where(AuditEntry.id.in_(acts.limit(limit))),
    ):
        touched += _count(await session.execute(statement.execution_options(synchronize_session=False)))
    return touched


@across_tenants("a user of whom nothing else is left")
async def forget_unused_users(session: AsyncSession, *, after: int, limit: int) -> tuple[int, int | None]:
    """Deletes users no row speaks of any more, among the next `limit` ids. Returns the count and where to go on."""
    ids = tuple(await session.scalars(select(User.id).where(User.id > after).order_by(User.id).limit(limit)))
    if not ids:
        return 0, None
    unused = [
        ~exists().where(column == User.id)
        for column in (
            Dialog.user_id,
            Persona.user_id,
            PersonaVersion.author_id,
            MemberSettingsRow.user_id,
            DailyUsage.user_id,
            AuditEntry.actor_id,
            AuditEntry.target_id,
        )
    ]
    gone = await session.execute(
        delete(User).where(User.id.in_(ids), *unused).execution_options(synchronize_session=False)
    )
    return _count(gone), ids[-1]


def _busy() -> ColumnElement[bool]:
    turn = aliased(Turn)
    return exists().where(turn.dialog_id == Dialog.id, turn.status == "pending")


def _idle(chosen: Select[Any], idle: ColumnElement[bool]) -> Select[Any]:
    return chosen.where(Dialog.ended_at.is_(None), idle, ~_busy())


def _expired(chosen: Select[Any], expired: ColumnElement[bool]) -> Select[Any]:
    return chosen.where(Dialog.ended_at.is_not(None), expired, ~_busy())


def _earlier(now: datetime, by: timedelta) -> datetime:
    """`now - by`, where "for ever" may be longer than the calendar."""
    return now - min(by, timedelta(days=36_500))


async def _number(session: AsyncSession, statement: Select[Any]) -> int:
    return int(await session.scalar(statement) or 0)


def _count(result: object) -> int:
    return int(getattr(result, "rowcount", 0))
