"""Deletions in a guild by its admins: counted, done, taken back.

Conversations are hidden at once and deleted some minutes later, by the cleanup: until then they can be brought back.
Hidden means that they have ended and name a purge; every query by which members read ended dialogs leaves them out.
Notes and personas are deleted at once. Each function that deletes handles one batch, and 0 means done.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.application import ours
from models.base import UTCDateTime
from models.queries.common import count_rows, ensure_guild, num_deleted
from models.queries.dialogs.conversations import leave_dialog
from models.queries.scope import cross_tenant
from models.tables import Dialog, DialogSummary, Fact, Persona, Purge, Turn
from models.types import EVERYBODY, DialogKey, DuePurge, PurgeCounts, PurgeScope

UNDO_WITHIN = timedelta(minutes=10)
"""How long conversations can be brought back."""
REASON = "purge"
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


async def count_purge(session: AsyncSession, *, key: DialogKey, scope: PurgeScope) -> PurgeCounts:
    """Count what a purge of this scope would delete in the key's guild."""
    dialogs, facts = _dialogs(key, scope), _facts(key, scope)
    in_dialogs = select(Dialog.id).where(dialogs)
    counts: dict[str, Select[Any]] = {}
    if scope.has("conversations"):
        counts["dialogs"] = select(func.count(Dialog.id)).where(dialogs)
        counts["pairs"] = select(func.count(Turn.id)).where(Turn.dialog_id.in_(in_dialogs), Turn.status == "done")
    if scope.has("memory"):
        counts["facts"] = select(func.count(Fact.id)).where(facts)
        counts["summaries"] = select(func.count(DialogSummary.id)).where(DialogSummary.dialog_id.in_(in_dialogs))
    if scope.has("personas"):
        counts["personas"] = select(func.count(Persona.id)).where(_personas(key, scope))
    return PurgeCounts(**{name: await count_rows(session, statement) for name, statement in counts.items()})


async def begin_purge(session: AsyncSession, *, key: DialogKey, now: datetime) -> int:
    """Begin to hide conversations of the key's guild; return the id by which they are brought back."""
    await ensure_guild(session, key.guild_id, now)
    purge = Purge(guild_id=key.guild_id, requested_at=now, due_at=now + UNDO_WITHIN)
    session.add(purge)
    await session.flush()
    return purge.id


async def hide_conversations(
    session: AsyncSession, *, key: DialogKey, scope: PurgeScope, purge_id: int, now: datetime, limit: int
) -> int:
    """End and hide a batch of the conversations of a scope; return how many.

    A reply that is being written is shown, but belongs to an ended conversation: it is not kept.
    """
    open_now = Dialog.ended_at.is_(None)
    batch = select(Dialog.id).where(_dialogs(key, scope)).limit(limit)
    hidden = await session.execute(
        update(Dialog)
        .where(ours(Dialog), Dialog.id.in_(batch))
        .values(
            purge_id=purge_id,
            end_reason=case((open_now, REASON), else_=Dialog.end_reason),
            ended_at=case((open_now, literal(now, UTCDateTime)), else_=Dialog.ended_at),
        )
        .execution_options(synchronize_session=False)
    )
    return num_deleted(hidden)


async def end_purge(session: AsyncSession, *, key: DialogKey, purge_id: int) -> None:
    """Forget a purge that hides nothing."""
    hides = select(Dialog.id).where(ours(Dialog), Dialog.purge_id == purge_id).limit(1)
    if await session.scalar(hides) is None:
        await _deleted(session, delete(Purge).where(ours(Purge), Purge.id == purge_id, Purge.guild_id == key.guild_id))


async def delete_notes(session: AsyncSession, *, key: DialogKey, scope: PurgeScope, limit: int) -> int:
    """Delete a batch of the notes of a scope: facts about members, and summaries of conversations."""
    of_dialogs = DialogSummary.dialog_id.in_(select(Dialog.id).where(_dialogs(key, scope)))
    facts = select(Fact.id).where(_facts(key, scope)).limit(limit)
    summaries = select(DialogSummary.id).where(of_dialogs).limit(limit)
    return await _deleted(session, delete(Fact).where(ours(Fact), Fact.id.in_(facts))) + await _deleted(
        session, delete(DialogSummary).where(DialogSummary.id.in_(summaries))
    )


async def delete_personas(session: AsyncSession, *, key: DialogKey, scope: PurgeScope, limit: int) -> int:
    """Delete a batch of the personas of a scope, with their versions and wherever they are set."""
    personas = select(Persona.id).where(_personas(key, scope)).limit(limit)
    return await _deleted(session, delete(Persona).where(ours(Persona), Persona.id.in_(personas)))


async def keep_purge(session: AsyncSession, *, key: DialogKey, purge_id: int, now: datetime) -> bool:
    """Keep what a purge of the key's guild hides from being deleted. False if it is too late, or another guild's."""
    mine = (ours(Purge), Purge.id == purge_id, Purge.guild_id == key.guild_id, Purge.due_at > now)
    kept = update(Purge).where(*mine).values(due_at=_NEVER).execution_options(synchronize_session=False)
    return num_deleted(await session.execute(kept)) > 0


async def bring_back(session: AsyncSession, *, key: DialogKey, purge_id: int, now: datetime, limit: int) -> int:
    """Show a batch of the conversations of a purge again; return how many.

    What somebody began since in the place of an open one is kept as a conversation of its own.
    """
    rows = await session.execute(
        select(Dialog.id, Dialog.user_id, Dialog.channel_id, Dialog.parked_at, Dialog.name, Dialog.end_reason)
        .where(ours(Dialog), Dialog.purge_id == purge_id, Dialog.guild_id == key.guild_id)
        .order_by(Dialog.id)
        .limit(limit)
        .with_for_update()
    )
    dialogs = rows.all()
    for row in dialogs:
        values: dict[str, Any] = {"purge_id": None}
        if row.end_reason == REASON:
            values |= {"ended_at": None, "end_reason": None}
            if row.parked_at is None:
                its_key = DialogKey(key.guild_id, row.user_id, row.channel_id, shared=row.user_id == EVERYBODY)
                await leave_dialog(session, key=its_key, now=now, for_name=row.name)
        await session.execute(update(Dialog).where(ours(Dialog), Dialog.id == row.id).values(**values))
    return len(dialogs)


@cross_tenant("cleanup of every guild")
async def due_purges(session: AsyncSession, *, now: datetime) -> tuple[DuePurge, ...]:
    """Return the purges that can no longer be taken back."""
    due = select(Purge.id, Purge.guild_id).where(ours(Purge), Purge.due_at <= now)
    rows = await session.execute(due.order_by(Purge.id))
    return tuple(DuePurge(row.id, row.guild_id) for row in rows)


@cross_tenant("cleanup of every guild")
async def count_hidden(session: AsyncSession, *, purge: DuePurge) -> int:
    """Count the rows that `delete_hidden` deletes of a due purge, itself included."""
    hidden = select(Dialog.id).where(_hidden_by(purge))
    turns = select(func.count(Turn.id)).where(Turn.dialog_id.in_(hidden))
    dialogs = select(func.count(Dialog.id)).where(_hidden_by(purge))
    return 1 + await count_rows(session, turns) + await count_rows(session, dialogs)


@cross_tenant("cleanup of every guild")
async def delete_hidden(session: AsyncSession, *, purge: DuePurge, now: datetime, limit: int) -> int:
    """Delete a batch of a due purge's turns, then its dialogs, then the purge itself; return the rows deleted."""
    due = select(Purge.id).where(ours(Purge), Purge.id == purge.purge_id, Purge.due_at <= now)
    if await session.scalar(due) is None:
        return 0
    ids = tuple(await session.scalars(select(Dialog.id).where(_hidden_by(purge)).limit(limit)))
    if not ids:
        return await _deleted(session, delete(Purge).where(ours(Purge), Purge.id == purge.purge_id))
    turns = select(Turn.id).where(Turn.dialog_id.in_(ids)).limit(limit)
    deleted = await _deleted(session, delete(Turn).where(Turn.id.in_(turns)))
    if deleted < limit:
        deleted += await _deleted(session, delete(Dialog).where(ours(Dialog), Dialog.id.in_(ids)))
    return deleted


def _hidden_by(purge: DuePurge) -> ColumnElement[bool]:
    return and_(ours(Dialog), Dialog.purge_id == purge.purge_id, Dialog.guild_id == purge.guild_id)


async def _deleted(session: AsyncSession, statement: Any) -> int:
    return num_deleted(await session.execute(statement.execution_options(synchronize_session=False)))


def _dialogs(key: DialogKey, scope: PurgeScope) -> ColumnElement[bool]:
    """Return the condition that a Dialog is meant. Of a member: those that are theirs alone."""
    meant = _meant(key, scope, member=Dialog.user_id, begun=Dialog.opened_at, used=Dialog.last_active_at)
    return and_(meant, Dialog.purge_id.is_(None))


def _facts(key: DialogKey, scope: PurgeScope) -> ColumnElement[bool]:
    return _meant(key, scope, member=Fact.user_id, begun=Fact.created_at, used=Fact.last_used_at)


def _personas(key: DialogKey, scope: PurgeScope) -> ColumnElement[bool]:
    """Return the condition that a Persona is meant: the guild's and its members' own ones, or one member's own."""
    return _meant(key, scope, member=Persona.owner_id, begun=Persona.created_at, used=Persona.updated_at)


def _meant(
    key: DialogKey,
    scope: PurgeScope,
    *,
    member: InstrumentedAttribute[Any],
    begun: InstrumentedAttribute[datetime],
    used: InstrumentedAttribute[datetime],
) -> ColumnElement[bool]:
    """Return the condition of a scope on a table with these columns."""
    table = begun.class_
    meant = [ours(table), table.guild_id == key.guild_id, begun <= scope.counted_at]
    if scope.member_id is not None:
        meant.append(member == scope.member_id)
    if scope.older_than is not None:
        meant.append(used < scope.older_than)
    return and_(*meant)
