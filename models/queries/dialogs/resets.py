"""A reset and its undo: dialogs end, and for some minutes they can come back.

The dialogs that one reset ended have the same `ended_at`, which is how they are found again. Called by
bot/chat/service.py.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import attempt_number, count_rows, is_open, matches_key
from models.queries.dialogs.conversations import leave_dialog
from models.queries.scope import cross_tenant
from models.tables import BoundThread, Dialog, Turn
from models.types import EVERYBODY, DialogKey, ResetCounts, UndoneReset

HERE, EVERYWHERE = "reset", "reset everywhere"
NEW_PERSONA = "persona"


async def end_dialog(session: AsyncSession, *, key: DialogKey, now: datetime) -> int:
    """End the key's open dialog (/reset); return how many finished pairs it held. A named one begins anew, empty.

    A turn whose reply is being generated stays pending. `finish_turn` then marks it interrupted: the member sees the
    reply, the history does not hold it. Repeated with the same `now` after a lost connection, it gives the same answer.
    """
    dialog_id = None
    if attempt_number(session) > 1:
        done = and_(matches_key(key), Dialog.ended_at == now, Dialog.end_reason == HERE)
        dialog_id = await session.scalar(select(Dialog.id).where(done).limit(1))
    if dialog_id is None:
        dialog_id = await _end_open_dialog(session, key, now)
    pairs = select(func.count(Turn.id)).where(Turn.dialog_id == dialog_id, Turn.status == "done")
    return 0 if dialog_id is None else await count_rows(session, pairs)


async def _end_open_dialog(session: AsyncSession, key: DialogKey, now: datetime) -> int | None:
    """End the open dialog and return its id, None if there is none."""
    ended = await session.execute(
        update(Dialog)
        .where(matches_key(key), is_open())
        .values(ended_at=now, end_reason=HERE)
        .returning(Dialog.id, Dialog.name)
    )
    row = ended.one_or_none()
    if row is not None and row.name is not None:
        session.add(
            Dialog(
                guild_id=key.guild_id,
                user_id=key.owner_id,
                channel_id=key.channel_id,
                opened_at=now,
                last_active_at=now,
                name=row.name,
            )
        )
        await session.flush()
    return None if row is None else row.id


@cross_tenant("a person starts anew in all their guilds")
async def end_dialogs_everywhere(session: AsyncSession, *, user_id: int, now: datetime) -> ResetCounts:
    """End all dialogs of a person's own, open and parked, in every guild and in direct messages."""
    if user_id == EVERYBODY:
        return ResetCounts(0, 0)
    mine = and_(Dialog.user_id == user_id, Dialog.ended_at.is_(None))
    await session.execute(update(Dialog).where(mine).values(ended_at=now, end_reason=EVERYWHERE))
    ended = and_(Dialog.user_id == user_id, Dialog.ended_at == now, Dialog.end_reason == EVERYWHERE)
    pairs = select(Turn.dialog_id).join(Dialog).where(ended, Turn.status == "done")
    row = (await session.execute(pairs.with_only_columns(func.count(Turn.dialog_id.distinct()), func.count()))).one()
    return ResetCounts(int(row[0]), int(row[1]))


@cross_tenant("an admin gives a place another persona, and all its conversations begin afresh")
async def end_dialogs_of_place(
    session: AsyncSession,
    *,
    guild_id: int,
    place_ids: Collection[int] | None,
    begun_before: datetime | None = None,
    now: datetime,
) -> ResetCounts:
    """End the open dialogs of these channels and threads, and of the threads bound to them; None: of the whole guild.

    A dialog that a member has in the whole guild belongs to no channel of it. `begun_before`: those that were begun
    before this moment.
    """
    here = _open_in_place(guild_id, place_ids, begun_before)
    await session.execute(update(Dialog).where(here).values(ended_at=now, end_reason=NEW_PERSONA))
    ended = and_(Dialog.guild_id == guild_id, Dialog.ended_at == now, Dialog.end_reason == NEW_PERSONA)
    pairs = select(Turn.dialog_id).join(Dialog).where(ended, Turn.status == "done")
    row = (await session.execute(pairs.with_only_columns(func.count(Turn.dialog_id.distinct()), func.count()))).one()
    return ResetCounts(int(row[0]), int(row[1]))


@cross_tenant("an admin gives a place another persona, and is asked about all its conversations")
async def place_has_pairs(session: AsyncSession, *, guild_id: int, place_ids: Collection[int] | None) -> bool:
    """Return whether something was said in the dialogs that `end_dialogs_of_place` would end."""
    said = select(Turn.id).join(Dialog).where(_open_in_place(guild_id, place_ids), Turn.status == "done")
    return await session.scalar(said.limit(1)) is not None


def _open_in_place(
    guild_id: int, place_ids: Collection[int] | None, begun_before: datetime | None = None
) -> ColumnElement[bool]:
    """Return the condition that a Dialog is open and belongs to these channels and threads; None: to the guild."""
    here = and_(Dialog.guild_id == guild_id, is_open())
    if begun_before is not None:
        here = and_(here, Dialog.opened_at < begun_before)
    if place_ids is None:
        return here
    bound = select(BoundThread.thread_id).where(BoundThread.guild_id == guild_id, BoundThread.parent_id.in_(place_ids))
    return and_(here, or_(Dialog.channel_id.in_(place_ids), Dialog.channel_id.in_(bound)))


async def undo_reset(
    session: AsyncSession,
    *,
    key: DialogKey,
    also: DialogKey | None = None,
    since: datetime,
    reset_at: datetime | None = None,
    now: datetime,
) -> UndoneReset | None:
    """Reopen what a reset ended, if this key can undo it and it was not before `since`. None if there is no such reset.

    `also`: another dialog of the same member, which such a reset may have ended, too. `reset_at`: the time of the
    reset; without it, the last one that these keys can undo: one of their dialogs, or one of the person everywhere. A
    dialog that was begun since is parked, or deleted if nothing was said in it.
    """
    mine = and_(_ended_by(key, also), Dialog.ended_at >= since)
    if reset_at is None:
        last = select(Dialog.ended_at).where(mine).order_by(Dialog.ended_at.desc(), Dialog.id.desc()).limit(1)
        reset_at = await session.scalar(last)
    rows = await session.execute(
        select(Dialog.id, Dialog.guild_id, Dialog.user_id, Dialog.channel_id, Dialog.parked_at, Dialog.name)
        .where(mine, Dialog.ended_at == reset_at)
        .order_by(Dialog.id)
        .with_for_update()
    )
    dialogs, kept = rows.all(), False
    for row in dialogs:
        if row.parked_at is None:
            shared = row.user_id == EVERYBODY
            its_key = DialogKey(row.guild_id, key.user_id, row.channel_id, shared=shared)
            kept |= await leave_dialog(session, key=its_key, now=now, for_name=row.name)
        await session.execute(update(Dialog).where(Dialog.id == row.id).values(ended_at=None, end_reason=None))
    return UndoneReset(len(dialogs), kept) if dialogs else None


def _ended_by(key: DialogKey, also: DialogKey | None) -> ColumnElement[bool]:
    """Return the condition that a Dialog was ended by a reset that these keys can undo."""
    here = matches_key(key) if also is None else or_(matches_key(key), matches_key(also))
    by_reset = or_(
        and_(here, Dialog.end_reason == HERE),
        and_(Dialog.user_id == key.user_id, Dialog.end_reason == EVERYWHERE),
    )
    return and_(by_reset, Dialog.purge_id.is_(None))
