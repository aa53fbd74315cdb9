"""Cleanup of dialogs, batch by batch: end the idle ones, purge the turns and dialogs that are past their retention.

An idle dialog that has a name is parked instead: its member expects to find it again. A parked dialog does not end; it
is purged once it has not been used for as long as an ended one is kept.
Each function that writes handles one batch in the caller's transaction and returns how many rows it changed; 0 means
done. A dialog with a pending turn is left alone. The counting functions serve the dry run and the check for a wrong
clock. Called by models/maintenance/cleanup.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, exists, func, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from models.base import UTCDateTime
from models.queries.common import count_rows, is_open, num_deleted
from models.queries.memory.summaries import forget_summaries_of_turns
from models.queries.scope import cross_tenant
from models.tables import Dialog, Fact, GuildSettingsRow, MemberSettingsRow, Turn


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """The operator's defaults and maxima; a guild may shorten the first two for itself, a member the second."""

    session_ttl: timedelta
    """Idle time after which a dialog ends."""
    retention: timedelta
    """How long an ended dialog is kept."""
    guild_grace: timedelta
    """How long the data of a removed guild is kept."""
    reports: timedelta = timedelta(days=30)
    """How long a report to the admins of a guild is kept."""


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """A set of dialogs with one retention: what ended, was last used while parked, or was said before `cutoff` has
    expired."""

    dialogs: ColumnElement[bool]
    """Condition on Dialog: those of certain guilds or members."""
    cutoff: datetime
    facts: ColumnElement[bool]
    """The same as a condition on Fact."""

    @property
    def expired(self) -> ColumnElement[bool]:
        """Condition on Dialog: ended before the cutoff, or parked and not used since."""
        return and_(or_(_ended(self.cutoff), _forgotten(self.cutoff)), self.dialogs)


@cross_tenant("cleanup serves every tenant by its own settings")
async def idle_conditions(
    session: AsyncSession, *, limits: RetentionLimits, now: datetime
) -> tuple[ColumnElement[bool], ...]:
    """Return conditions that together select every dialog idle for too long: one per distinct session_ttl."""
    guild = GuildSettingsRow
    ttls = await session.scalars(select(guild.session_ttl_s).where(guild.session_ttl_s.is_not(None)).distinct())
    own = select(guild.guild_id).where(guild.session_ttl_s.is_not(None))
    default = and_(Dialog.last_active_at < cutoff(now, limits.session_ttl), Dialog.guild_id.not_in(own))
    return (
        default,
        *(
            and_(
                Dialog.last_active_at < cutoff(now, min(timedelta(seconds=seconds), limits.session_ttl)),
                Dialog.guild_id.in_(select(guild.guild_id).where(guild.session_ttl_s == seconds)),
            )
            for seconds in ttls
            if seconds is not None
        ),
    )


@cross_tenant("cleanup serves every tenant by its own settings")
async def retention_rules(
    session: AsyncSession, *, limits: RetentionLimits, now: datetime
) -> tuple[RetentionRule, ...]:
    """Return one rule per distinct retention: the operator's default, then the guilds', then the members'.

    A dialog may match a guild's and a member's rule; then the shorter retention decides.
    """
    guild, member = GuildSettingsRow, MemberSettingsRow
    guild_days = await session.scalars(select(guild.retention_days).where(guild.retention_days.is_not(None)).distinct())
    member_days = await session.scalars(
        select(member.retention_days).where(member.retention_days.is_not(None)).distinct()
    )
    own = select(guild.guild_id).where(guild.retention_days.is_not(None))
    rules = [RetentionRule(Dialog.guild_id.not_in(own), cutoff(now, limits.retention), Fact.guild_id.not_in(own))]
    for days in guild_days:
        guilds = select(guild.guild_id).where(guild.retention_days == days)
        before = cutoff(now, min(timedelta(days=days or 0), limits.retention))
        rules.append(RetentionRule(Dialog.guild_id.in_(guilds), before, Fact.guild_id.in_(guilds)))
    for days in member_days:
        members = select(member.guild_id, member.user_id).where(member.retention_days == days)
        dialogs = tuple_(Dialog.guild_id, Dialog.user_id).in_(members)
        facts = tuple_(Fact.guild_id, Fact.user_id).in_(members)
        rules.append(RetentionRule(dialogs, cutoff(now, timedelta(days=days or 0)), facts))
    return tuple(rules)


@cross_tenant("cleanup serves every tenant by its own settings")
async def end_idle_dialogs(session: AsyncSession, *, idle: ColumnElement[bool], now: datetime, limit: int) -> int:
    """End a batch of the dialogs that `idle` (one of `idle_conditions`) selects, or park those that have a name.

    Returns how many they were.
    """
    ids = _only_idle(select(Dialog.id), idle).limit(limit)
    unnamed, at = Dialog.name.is_(None), literal(now, UTCDateTime)
    ended = await session.scalars(
        update(Dialog)
        # The conditions again, in case a chat began between the subquery and the row lock.
        .where(Dialog.id.in_(ids), is_open(), idle, ~_has_pending_turn())
        .values(
            ended_at=case((unnamed, at), else_=None),
            end_reason=case((unnamed, "idle"), else_=None),
            parked_at=case((unnamed, None), else_=at),
        )
        .returning(Dialog.id)
        .execution_options(synchronize_session=False)
    )
    return len(ended.all())


@cross_tenant("cleanup serves every tenant by its own settings")
async def purge_expired_dialogs(session: AsyncSession, *, rule: RetentionRule, limit: int) -> int:
    """Delete the turns of a batch of expired dialogs, and the dialogs once they are empty; return the rows deleted."""
    # Select the dialogs first: a search that starts from the turns reads all of them when few are expired.
    batch = _only_expired(select(Dialog.id), rule.expired).limit(limit).with_for_update(skip_locked=True)
    ids = tuple(await session.scalars(batch))
    turns = select(Turn.id).where(Turn.dialog_id.in_(ids)).limit(limit)
    result = await session.execute(delete(Turn).where(Turn.id.in_(turns)).execution_options(synchronize_session=False))
    deleted = num_deleted(result)
    if deleted < limit:
        emptied = delete(Dialog).where(Dialog.id.in_(ids)).execution_options(synchronize_session=False)
        deleted += num_deleted(await session.execute(emptied))
    return deleted


@cross_tenant("cleanup serves every tenant by its own settings")
async def expired_turns(session: AsyncSession, *, rule: RetentionRule, limit: int) -> tuple[int, ...]:
    """Return turns past their retention in dialogs that are still open. For a read transaction: it may take a while."""
    long_open = select(Dialog.id).where(Dialog.ended_at.is_(None), Dialog.opened_at < rule.cutoff, rule.dialogs)
    rows = await session.scalars(
        select(Turn.id)
        .where(Turn.dialog_id.in_(long_open), Turn.created_at < rule.cutoff, Turn.status != "pending")
        .limit(limit)
    )
    return tuple(rows)


@cross_tenant("cleanup serves every tenant by its own settings")
async def delete_turns(session: AsyncSession, *, turn_ids: tuple[int, ...]) -> int:
    """Delete these turns, except pending ones; return how many."""
    statement = delete(Turn).where(Turn.id.in_(turn_ids), Turn.status != "pending")
    rows = await session.execute(
        statement.returning(Turn.dialog_id, Turn.id).execution_options(synchronize_session=False)
    )
    deleted = [(row.dialog_id, row.id) for row in rows]
    await forget_summaries_of_turns(session, deleted)  # facts have a retention of their own
    return len(deleted)


@cross_tenant("cleanup serves every tenant by its own settings")
async def delete_expired_facts(session: AsyncSession, *, rule: RetentionRule, limit: int) -> int:
    """Delete a batch of the facts that no prompt has had since the rule's cutoff; return how many."""
    expired = select(Fact.id).where(Fact.last_used_at < rule.cutoff, rule.facts).limit(limit)
    statement = delete(Fact).where(Fact.id.in_(expired)).execution_options(synchronize_session=False)
    return num_deleted(await session.execute(statement))


@cross_tenant("cleanup serves every tenant by its own settings")
async def count_idle(session: AsyncSession, *, idle: ColumnElement[bool]) -> int:
    """Count the dialogs that `end_idle_dialogs` would end."""
    return await count_rows(session, _only_idle(select(func.count(Dialog.id)), idle))


@cross_tenant("cleanup serves every tenant by its own settings")
async def count_open(session: AsyncSession) -> int:
    """Count the open dialogs."""
    return await count_rows(session, select(func.count(Dialog.id)).where(is_open()))


@cross_tenant("cleanup serves every tenant by its own settings")
async def count_expired(session: AsyncSession, *, rules: tuple[RetentionRule, ...]) -> tuple[int, int]:
    """Count the dialogs and the turns that `purge_expired_dialogs` would delete under any of the rules."""
    either = or_(*(rule.expired for rule in rules))
    dialogs = await count_rows(session, _only_expired(select(func.count(Dialog.id)), either))
    turns = await count_rows(session, _only_expired(select(func.count(Turn.id)).join(Dialog), either))
    return dialogs, turns


@cross_tenant("cleanup serves every tenant by its own settings")
async def count_expired_facts(session: AsyncSession, *, rules: tuple[RetentionRule, ...]) -> int:
    """Count the facts that `delete_expired_facts` would delete under any of the rules."""
    expired = or_(*(and_(Fact.last_used_at < rule.cutoff, rule.facts) for rule in rules))
    return await count_rows(session, select(func.count(Fact.id)).where(expired))


def _has_pending_turn() -> ColumnElement[bool]:
    """Return the condition that a Dialog has a turn whose reply is being generated."""
    turn = aliased(Turn)
    return exists().where(turn.dialog_id == Dialog.id, turn.status == "pending")


def _only_idle(statement: Select[Any], idle: ColumnElement[bool]) -> Select[Any]:
    return statement.where(is_open(), idle, ~_has_pending_turn())


def _ended(before: datetime) -> ColumnElement[bool]:
    """Return the condition that a Dialog ended before this time. IS NOT NULL makes it that of the partial index."""
    return and_(Dialog.ended_at.is_not(None), Dialog.ended_at < before)


def _forgotten(before: datetime) -> ColumnElement[bool]:
    """Return the condition that a Dialog is parked and was last used before this time."""
    return and_(Dialog.ended_at.is_(None), Dialog.parked_at.is_not(None), Dialog.last_active_at < before)


def _only_expired(statement: Select[Any], expired: ColumnElement[bool]) -> Select[Any]:
    return statement.where(expired, ~_has_pending_turn())


def cutoff(now: datetime, age: timedelta) -> datetime:
    """Return `now - age`, with `age` limited to a century so that the result stays in datetime's range."""
    return now - min(age, timedelta(days=36_500))
