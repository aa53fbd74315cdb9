"""Finds a turn by the id in a button under its reply, with its tenant and state."""

from __future__ import annotations

from typing import get_args

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec
from models.queries.dialogs.speakers import speaker_of
from models.queries.scope import cross_tenant
from models.tables import Dialog, ReplyVariant, Turn
from models.types import EVERYBODY, DialogKey, TurnInfo, TurnStatus


@cross_tenant("a button carries the id of a turn; the caller checks whose it is")
async def turn_info(session: AsyncSession, *, turn_id: int) -> TurnInfo | None:
    """Return a turn with its key and author, or None if it is gone, also if an admin has just deleted it."""
    row = (
        await session.execute(
            select(Turn, Dialog)
            .join(Dialog, Dialog.id == Turn.dialog_id)
            .where(Turn.id == turn_id, Dialog.purge_id.is_(None))
        )
    ).one_or_none()
    if row is None:
        return None
    turn, dialog = row
    shared = dialog.user_id == EVERYBODY
    author_id = turn.author_id if turn.author_id is not None else dialog.user_id
    later = await session.scalar(
        select(func.count(Turn.id)).where(Turn.dialog_id == dialog.id, Turn.id > turn_id, Turn.status == "done")
    )
    replies = await session.execute(
        select(ReplyVariant.position, ReplyVariant.active)
        .where(ReplyVariant.turn_id == turn_id)
        .order_by(ReplyVariant.position)
    )
    positions = replies.all()
    text = codec(session)
    status: TurnStatus = next(each for each in get_args(TurnStatus) if each == turn.status)
    return TurnInfo(
        turn_id=turn_id,
        key=DialogKey(dialog.guild_id, author_id, dialog.channel_id, shared=shared),
        author_id=author_id,
        status=status,
        user_text=text.open(turn.user_text),
        reply=None if turn.reply is None else text.open(turn.reply),
        finish_reason=turn.finish_reason,
        is_open=dialog.ended_at is None and dialog.parked_at is None,
        num_later=int(later or 0),
        is_parked=dialog.ended_at is None and dialog.parked_at is not None,
        position=next((row.position for row in positions if row.active), 1),
        num_variants=max(1, len(positions)),
        files_note="" if turn.files_note is None else text.open(turn.files_note),
        replaces_id=turn.replaces_id,
        speaker=speaker_of(session, turn.speaker_id, turn.speaker_name),
    )
