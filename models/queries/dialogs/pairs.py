"""The finished pairs of a dialog, as a prompt or `/history` has them, and who speaks in it.

A pair is what a member said and the reply to it. Knows which pairs are read and in what order; changes nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, bindparam, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, is_open, key_values, matches_key, matches_key_values, rows_of
from models.queries.dialogs.speakers import speaker_of
from models.queries.dialogs.turn_files import files_of
from models.tables import Delivery, DeliveryMessage, Dialog, Turn, TurnFile
from models.types import UNNAMED_SPEAKER, DialogKey, Pair

_MAX_SPOKEN = 200
FILTERED = "filtered"
"""The finish reason of a reply that was kept out: its pair stands in no prompt, and nothing of it is remembered."""


def not_filtered() -> ColumnElement[bool]:
    """Return the condition that the reply of a Turn was not kept out."""
    return or_(Turn.finish_reason.is_(None), Turn.finish_reason != FILTERED)


async def history(session: AsyncSession, *, key: DialogKey, limit: int) -> tuple[Pair, ...]:
    """Return the last `limit` pairs of the key's open dialog, oldest first (/history and the terminal)."""
    dialog_id = await session.scalar(select(Dialog.id).where(matches_key(key), is_open()))
    return () if dialog_id is None else await pairs_before(session, dialog_id, None, limit)


_HAS_FILES = exists().where(TurnFile.turn_id == Turn.id).correlate(Turn).label("has_files")
_PAIRS = select(
    Turn.id, Turn.user_text, Turn.reply, Turn.author_name, Turn.speaker_id, Turn.speaker_name, _HAS_FILES
).where(Turn.status == "done", not_filtered())
_LAST_PAIRS = _PAIRS.where(Turn.dialog_id == bindparam("dialog_id")).order_by(Turn.id.desc()).limit(bindparam("limit"))
_PAIRS_BEFORE = _LAST_PAIRS.where(Turn.id < bindparam("before_turn"))


async def pairs_before(session: AsyncSession, dialog_id: int, turn_id: int | None, limit: int) -> tuple[Pair, ...]:
    """Return the last `limit` finished pairs of a dialog, oldest first; only those before `turn_id` if it is given.

    The caller must have found the dialog by its key.
    """
    if limit <= 0:
        return ()
    which: dict[str, Any] = {"dialog_id": dialog_id, "limit": limit}
    if turn_id is None:
        rows = (await rows_of(session, _LAST_PAIRS, which)).all()
    else:
        rows = (await rows_of(session, _PAIRS_BEFORE, {**which, "before_turn": turn_id})).all()
    files = await files_of(session, turn_ids=[row.id for row in rows if row.has_files])
    text = codec(session)
    newest_first = [
        Pair(
            row.id,
            text.open(row.user_text),
            text.open(row.reply),
            None if row.author_name is None else text.open(row.author_name),
            files.get(row.id, ()),
            speaker_of(session, row.speaker_id, row.speaker_name),
        )
        for row in rows
    ]
    return tuple(reversed(newest_first))


_EARLIER = exists().where(matches_key_values(), Dialog.id < bindparam("dialog_id"))
_PAIR_ABOVE = (
    _PAIRS.join(Delivery, Delivery.turn_id == Turn.id)
    .join(DeliveryMessage, DeliveryMessage.delivery_id == Delivery.id)
    .where(DeliveryMessage.message_id == bindparam("key_channel_id"), Delivery.guild_id == bindparam("key_guild_id"))
    .where(~Delivery.ephemeral, ~_EARLIER)
    .where(Turn.dialog_id.not_in(select(Dialog.id).where(Dialog.purge_id.is_not(None))))
    .limit(1)
)


async def pair_above(session: AsyncSession, *, key: DialogKey, dialog_id: int) -> tuple[Pair, ...]:
    """Return the pair under whose reply the key's thread was started, for the first dialog of the thread.

    Such a thread has the id of the message that shows the reply. The pair stays where it is, and is forgotten there.
    """
    row = (await rows_of(session, _PAIR_ABOVE, {**key_values(key), "dialog_id": dialog_id})).first()
    if row is None:
        return ()
    text = codec(session)
    author = UNNAMED_SPEAKER if row.author_name is None else text.open(row.author_name)
    files = await files_of(session, turn_ids=[row.id])
    speaker = speaker_of(session, row.speaker_id, row.speaker_name)
    return (Pair(row.id, text.open(row.user_text), text.open(row.reply), author, files.get(row.id, ()), speaker),)


_NAMES = (
    select(Turn.author_id, Turn.author_name)
    .join(Dialog)
    .where(matches_key_values(), Turn.status == "done", Turn.author_name.is_not(None))
    .order_by(Turn.id.desc())
    .limit(_MAX_SPOKEN)
)
_NAMES_IN_OPEN = _NAMES.where(is_open())
_NAMES_IN_DIALOG = _NAMES.where(Dialog.id == bindparam("dialog_id"))


async def names_in_dialog(session: AsyncSession, *, key: DialogKey, dialog_id: int | None = None) -> dict[int, str]:
    """Return the speakers of a dialog's last _MAX_SPOKEN pairs, with the names that the model read last.

    By default of the open one.
    """
    if dialog_id is None:
        rows = await rows_of(session, _NAMES_IN_OPEN, key_values(key))
    else:
        rows = await rows_of(session, _NAMES_IN_DIALOG, {**key_values(key), "dialog_id": dialog_id})
    text = codec(session)
    names: dict[int, str] = {}
    for author_id, name in rows:
        if author_id is not None and name is not None and author_id not in names:
            names[author_id] = text.open(name)
    return names
