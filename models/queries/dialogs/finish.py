"""The finish transaction: store the reply of a turn that was begun, or end it without one.

bot/chat/turns/turn_log.py runs it once the reply is generated. Every statement filters by the whole key, so the turn id
of another tenant matches nothing. Knows pending turns; other replies to a finished turn are in variants.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import and_, bindparam, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import change, codec, key_values, matches_key, matches_key_values, rows_of
from models.queries.dialogs.prompts import record_prompt
from models.queries.dialogs.speakers import speaker_values
from models.queries.memory.summaries import forget_memory_of_turns
from models.queries.replies.deliveries import close_deliveries, ready_delivery, retract_deliveries
from models.queries.tenants.policy import add_opted_out_usage, add_usage, load_policy
from models.tables import Dialog, Turn
from models.types import DialogKey, TurnResult

_UNFINISHED = and_(
    Turn.id == bindparam("turn"),
    or_(Turn.status == "pending", and_(Turn.status == "interrupted", Turn.owner == bindparam("this_process"))),
)
"""A turn that still waits for the reply that this process writes.

Another process may have marked it interrupted, because no heartbeat of this one came for a minute; no other process
works on it.
"""
# A parked dialog is as good as the one in use: its member changed to another one while this reply was written.
_NOT_ENDED = select(Dialog.id).where(matches_key_values(), Dialog.ended_at.is_(None))
_FINISH = (
    update(Turn)
    .where(_UNFINISHED, Turn.dialog_id.in_(_NOT_ENDED))
    .values(status="done")
    .returning(Turn.dialog_id, Turn.replaces_id)
)
_FAIL = (
    update(Turn)
    .where(_UNFINISHED, Turn.dialog_id.in_(select(Dialog.id).where(matches_key_values())))
    .returning(Turn.id)
)
_TOUCH = update(Dialog).where(ours(Dialog), Dialog.id == bindparam("dialog"))


async def finish_turn(
    session: AsyncSession, *, key: DialogKey, turn_id: int, result: TurnResult, now: datetime
) -> bool:
    """Store the reply of a pending turn. True if the pair is in the history of the open dialog.

    A turn that another process ended, because it took this one for dead, is stored all the same. False if /reset ended
    the dialog first, the turn was deleted or ended otherwise, or the member opted out (turn id 0).
    Repeated after a lost connection it gives the same answer, whether or not the first COMMIT succeeded.
    """
    if turn_id == 0:
        await _count_opted_out(session, key, result, now)
        return False
    reply = {
        "reply": codec(session).seal(result.reply),
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "finish_reason": result.finish_reason,
        "first_token_ms": result.first_token_ms,
        "total_ms": result.total_ms,
        "finished_at": now,
        "model": result.model,
        **speaker_values(session, result.speaker),
    }
    row = await rows_of(session, _FINISH, {**_unfinished_turn(session, key, turn_id), **reply})
    if (finished := row.one_or_none()) is not None:
        dialog_id, replaces_id = finished
        if replaces_id is not None:
            replaced = (
                Turn.dialog_id == dialog_id, Turn.id >= replaces_id, Turn.id < turn_id, Turn.status != "pending",
            )  # fmt: skip
            await retract_deliveries(
                session, turns=select(Turn.id).where(*replaced), kept_for=turn_id, text=result.retraction
            )
            gone = await session.scalars(delete(Turn).where(*replaced).returning(Turn.id))
            await forget_memory_of_turns(session, [(dialog_id, each) for each in gone])
        await ready_delivery(session, key=key, turn_id=turn_id, messages=result.messages)
        await change(session, _TOUCH, {"dialog": dialog_id, "last_active_at": now})
        await record_prompt(session, key=key, turn_id=turn_id, record=result.prompt, now=now)
        await add_usage(session, key=key, result=result, now=now, new_turn=True)
        return True
    await fail_turn(session, key=key, turn_id=turn_id, status="interrupted", error_id=None, now=now)
    stored = await session.scalar(
        select(Turn.reply).join(Dialog).where(matches_key(key), Turn.id == turn_id, Turn.status == "done")
    )
    return stored is not None and codec(session).open(stored) == result.reply


async def fail_turn(
    session: AsyncSession,
    *,
    key: DialogKey,
    turn_id: int,
    status: Literal["failed", "interrupted"],
    error_id: str | None,
    now: datetime,
) -> None:
    """End a pending turn without a reply, or one that another process ended. Any other turn stays as it is."""
    end = {"status": status, "error_id": error_id, "finished_at": now}
    ended = (await rows_of(session, _FAIL, {**_unfinished_turn(session, key, turn_id), **end})).scalar()
    if ended is not None:  # else another process writes the reply
        await close_deliveries(session, key=key, turn_id=turn_id)


def _unfinished_turn(session: AsyncSession, key: DialogKey, turn_id: int) -> dict[str, Any]:
    """Return the parameters of `_UNFINISHED`."""
    return {**key_values(key), "turn": turn_id, "this_process": session.info.get("owner")}


async def _count_opted_out(session: AsyncSession, key: DialogKey, result: TurnResult, now: datetime) -> None:
    """Count the usage of a member who opted out, if a day has limits."""
    if result.counts_usage or (await load_policy(session, key=key, now=now)).records_usage:
        await add_opted_out_usage(session, key=key, result=result, now=now)
