"""What a member may read again: the finished pairs of one dialog, or of all that they may see here.

These are their own dialogs in this guild, ended ones too until they are purged, and the shared dialog of the place.
Called by bot/chat/history.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, is_open, matches_key
from models.queries.dialogs.turn_files import files_of
from models.tables import Delivery, Dialog, Turn
from models.types import EVERYBODY, DialogHead, DialogKey, Exchange

MAX_DIALOGS = 500
"""Dialogs that one search covers, the last active ones."""


def shown_to(key: DialogKey) -> ColumnElement[bool]:
    """Return the condition that a Turn may be shown to this member: in a shared dialog, not what others asked alone."""
    if not key.shared:
        return true()
    # Counted, not NOT EXISTS: for that, Postgres may read all deliveries into a hash table.
    alone = select(func.count()).where(Delivery.turn_id == Turn.id, Delivery.ephemeral)
    return or_(Turn.author_id == key.user_id, alone.correlate(Turn).scalar_subquery() == 0)


async def dialog_head(session: AsyncSession, *, key: DialogKey, dialog_id: int | None = None) -> DialogHead | None:
    """Return one dialog that the member may see; without an id, the open one of the key."""
    wanted = and_(matches_key(key), is_open()) if dialog_id is None else and_(_visible(key), Dialog.id == dialog_id)
    row = (await session.execute(_heads().where(wanted))).one_or_none()
    return None if row is None else _head(session, row)


async def visible_dialogs(session: AsyncSession, *, key: DialogKey) -> tuple[DialogHead, ...]:
    """Return the dialogs that the member may see here, the last active first."""
    rows = await session.execute(
        _heads().where(_visible(key)).order_by(Dialog.last_active_at.desc(), Dialog.id.desc()).limit(MAX_DIALOGS)
    )
    return tuple(_head(session, row) for row in rows)


async def exchanges(
    session: AsyncSession,
    *,
    key: DialogKey,
    dialog_ids: tuple[int, ...],
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> tuple[Exchange, ...]:
    """Return pairs of these dialogs, oldest first: the last `limit` ones before turn `before`, or the first after
    turn `after`. A dialog that the member may not see has none."""
    found = _finished(key, dialog_ids)
    if before is not None:
        found = found.where(Turn.id < before)
    if after is not None:
        found = found.where(Turn.id > after)
    order = Turn.id.desc() if after is None else Turn.id.asc()
    rows = (await session.scalars(found.order_by(order).limit(limit))).all()
    files = await files_of(session, turn_ids=[row.id for row in rows])
    text = codec(session)
    read = [
        Exchange(
            turn_id=row.id,
            dialog_id=row.dialog_id,
            at=row.created_at,
            user=text.open(row.user_text),
            reply="" if row.reply is None else text.open(row.reply),
            own=row.author_id in (None, key.user_id),
            author=None if row.author_name is None else text.open(row.author_name),
            files=files.get(row.id, ()),
        )
        for row in rows
    ]
    return tuple(sorted(read, key=lambda each: each.turn_id))


async def count_exchanges(
    session: AsyncSession, *, key: DialogKey, dialog_id: int, first: int, last: int, oldest: int
) -> tuple[int, int]:
    """Count the pairs of a dialog before turn `first` (from turn `oldest` on), and those after turn `last`."""
    pairs = _finished(key, (dialog_id,)).with_only_columns(func.count(Turn.id))
    before = await session.scalar(pairs.where(Turn.id < first, Turn.id >= oldest))
    after = await session.scalar(pairs.where(Turn.id > last))
    return int(before or 0), int(after or 0)


def _heads() -> Select[int, str | None, datetime | None, int]:
    return select(Dialog.id, Dialog.name, Dialog.ended_at, Dialog.user_id)


def _head(session: AsyncSession, row: Any) -> DialogHead:
    name = None if row.name is None else codec(session).open(row.name)
    return DialogHead(row.id, name, row.ended_at is not None, row.user_id == EVERYBODY)


def _finished(key: DialogKey, dialog_ids: tuple[int, ...]) -> Select[Turn]:
    return (
        select(Turn)
        .join(Dialog)
        .where(Turn.dialog_id.in_(dialog_ids), Turn.status == "done", _visible(key), shown_to(key))
    )


def _visible(key: DialogKey) -> ColumnElement[bool]:
    """Return the condition that a Dialog may be seen by this member here."""
    own = and_(Dialog.guild_id == key.guild_id, Dialog.user_id == key.user_id)
    return and_(or_(own, matches_key(key)) if key.shared else own, Dialog.purge_id.is_(None))
