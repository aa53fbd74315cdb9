"""Changes to past turns: regenerate a reply, choose among the replies, delete pairs.

A turn that was regenerated keeps each of its replies in `reply_variants`; the active one is also in the turn itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, is_open, matches_key
from models.queries.dialogs.begin import admit, finished_turn, turn_snapshot
from models.queries.dialogs.prompts import record_prompt
from models.queries.dialogs.speakers import speaker_of, speaker_values
from models.queries.dialogs.turn_files import files_of
from models.queries.memory.summaries import forget_memory_of_turns, forget_summaries_of_turns
from models.queries.replies.deliveries import ready_delivery, reopen_delivery
from models.queries.tenants.policy import add_usage
from models.tables import Dialog, ReplyVariant, Turn
from models.types import (
    NO_PLACE,
    DialogKey,
    OutgoingMessage,
    PersonaScope,
    Place,
    ReplyLimits,
    Speaker,
    TurnResult,
    TurnSnapshot,
    Variant,
)


async def begin_regeneration(
    session: AsyncSession,
    *,
    key: DialogKey,
    limit: int,
    turn_id: int | None = None,
    interaction_id: int | None = None,
    limits: ReplyLimits | None = None,
    place: Place | None = None,
    in_place: bool = False,
    persona_scope: PersonaScope = NO_PLACE,
    memory: bool = False,
    now: datetime,
) -> TurnSnapshot | None:
    """Begin another reply to a finished turn of the key's open dialog: `turn_id`, or the member's last one.

    Returns what its prompt is built from, or None if there is no such turn. The turn stays done and keeps its reply, so
    a crash loses only the new reply. `limit`, `limits`, `place`, `persona_scope`, `memory` and the errors are those
    of `begin_turn`; `in_place`: the reply is shown in the messages that show the present one.
    """
    settings = await admit(session, key=key, limit=limit, interaction_id=interaction_id, limits=limits, now=now)
    finished = select(Turn).join(Dialog).where(matches_key(key), is_open(), Turn.status == "done")
    if turn_id is not None:
        finished = finished.where(Turn.id == turn_id)
    elif key.shared:
        finished = finished.where(Turn.author_id == key.user_id)
    turn = await session.scalar(finished.order_by(Turn.id.desc()).limit(1))
    if turn is None:
        return None
    await session.execute(update(Turn).where(Turn.id == turn.id).values(owner=session.info.get("owner")))
    delivery_id = await reopen_delivery(session, key=key, turn_id=turn.id, place=place, in_place=in_place, now=now)
    text = codec(session)
    snapshot = await turn_snapshot(
        session,
        key=key,
        turn_id=turn.id,
        dialog_id=turn.dialog_id,
        text=text.open(turn.user_text),
        settings=settings,
        persona_scope=persona_scope,
        memory=memory,
        before_turn=turn.id,
    )
    return replace(
        snapshot,
        author=None if turn.author_name is None else text.open(turn.author_name),
        files=(await files_of(session, turn_ids=[turn.id])).get(turn.id, ()),
        files_note="" if turn.files_note is None else text.open(turn.files_note),
        reply=None if turn.reply is None else text.open(turn.reply),
        delivery_id=delivery_id,
        speaker=speaker_of(session, turn.speaker_id, turn.speaker_name),
    )


async def finish_regeneration(
    session: AsyncSession, *, key: DialogKey, turn_id: int, result: TurnResult, now: datetime
) -> bool:
    """Store another reply of a finished turn and make it the active one. False if the turn or its dialog is gone.

    Repeated with the same `now` after a lost connection, it changes nothing.
    """
    turn = await finished_turn(session, key=key, turn_id=turn_id, parked=True)
    if turn is None or turn.reply is None:
        return False
    if turn.finished_at == now and codec(session).open(turn.reply) == result.reply:
        return True
    latest = await session.scalar(select(func.max(ReplyVariant.position)).where(ReplyVariant.turn_id == turn_id))
    if latest is None:
        latest = 1
        session.add(
            ReplyVariant(
                turn_id=turn_id,
                position=1,
                active=False,
                reply=turn.reply,
                prompt_tokens=turn.prompt_tokens,
                completion_tokens=turn.completion_tokens,
                finish_reason=turn.finish_reason,
                created_at=turn.finished_at or now,
                speaker_id=turn.speaker_id,
                speaker_name=turn.speaker_name,
                model=turn.model,
            )
        )
    sealed, speaker = codec(session).seal(result.reply), speaker_values(session, result.speaker)
    await session.execute(update(ReplyVariant).where(ReplyVariant.turn_id == turn_id).values(active=False))
    session.add(
        ReplyVariant(
            turn_id=turn_id,
            position=latest + 1,
            active=True,
            reply=sealed,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            finish_reason=result.finish_reason,
            created_at=now,
            model=result.model,
            **speaker,
        )
    )
    turn.reply = sealed
    turn.speaker_id, turn.speaker_name = speaker["speaker_id"], speaker["speaker_name"]
    turn.prompt_tokens, turn.completion_tokens = result.prompt_tokens, result.completion_tokens
    turn.finish_reason, turn.finished_at = result.finish_reason, now
    turn.first_token_ms, turn.total_ms = result.first_token_ms, result.total_ms
    turn.model = result.model
    await session.flush()
    await forget_summaries_of_turns(session, [(turn.dialog_id, turn_id)])
    await record_prompt(session, key=key, turn_id=turn_id, record=result.prompt, now=now)
    await ready_delivery(session, key=key, turn_id=turn_id, messages=result.messages)
    await session.execute(update(Dialog).where(Dialog.id == turn.dialog_id).values(last_active_at=now))
    await add_usage(session, key=key, result=result, now=now, new_turn=False)
    return True


async def variants(session: AsyncSession, *, key: DialogKey, turn_id: int) -> tuple[Variant, ...]:
    """Return all replies of the key's turn, oldest first; empty if it was never regenerated."""
    rows = await session.scalars(
        select(ReplyVariant)
        .join(Turn, Turn.id == ReplyVariant.turn_id)
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .where(matches_key(key), Turn.id == turn_id)
        .order_by(ReplyVariant.position)
    )
    return tuple(
        Variant(
            row.position,
            codec(session).open(row.reply),
            row.active,
            speaker_of(session, row.speaker_id, row.speaker_name),
        )
        for row in rows
    )


async def select_variant(
    session: AsyncSession,
    *,
    key: DialogKey,
    turn_id: int,
    position: int,
    messages: Callable[[str, Speaker | None], tuple[OutgoingMessage, ...]] = lambda reply, speaker: (),
    place: Place | None = None,
    now: datetime | None = None,
) -> bool:
    """Make one of a turn's replies the active one, which the history shows. False if there is no such reply.

    `messages`: how that reply is to be shown, recorded in the same transaction; `place`: the way to the messages that
    show the present one, at the time `now`.
    """
    turn = await finished_turn(session, key=key, turn_id=turn_id, parked=True)
    chosen = await session.get(ReplyVariant, (turn_id, position)) if turn is not None else None
    if turn is None or chosen is None:
        return False
    await session.execute(update(ReplyVariant).where(ReplyVariant.turn_id == turn_id).values(active=False))
    await session.execute(
        update(ReplyVariant)
        .where(ReplyVariant.turn_id == turn_id, ReplyVariant.position == position)
        .values(active=True)
    )
    turn.reply, turn.finish_reason = chosen.reply, chosen.finish_reason
    turn.prompt_tokens, turn.completion_tokens = chosen.prompt_tokens, chosen.completion_tokens
    turn.speaker_id, turn.speaker_name = chosen.speaker_id, chosen.speaker_name
    turn.model = chosen.model
    await session.flush()
    await forget_summaries_of_turns(session, [(turn.dialog_id, turn_id)])
    if now is not None:
        await reopen_delivery(session, key=key, turn_id=turn_id, place=place, in_place=True, now=now)
    speaker = speaker_of(session, chosen.speaker_id, chosen.speaker_name)
    shown = messages(codec(session).open(chosen.reply), speaker)
    await ready_delivery(session, key=key, turn_id=turn_id, messages=shown)
    return True


async def finish_continuation(
    session: AsyncSession, *, key: DialogKey, turn_id: int, result: TurnResult, now: datetime
) -> bool:
    """Replace a finished turn's reply by itself with its continuation (`result.reply` is both together).

    False if the turn or its dialog is gone. Repeated with the same `now` after a lost connection, it changes nothing.
    """
    turn = await finished_turn(session, key=key, turn_id=turn_id, parked=True)
    if turn is None or turn.reply is None:
        return False
    if turn.finished_at == now and codec(session).open(turn.reply) == result.reply:
        return True
    turn.reply = codec(session).seal(result.reply)
    turn.completion_tokens = (turn.completion_tokens or 0) + result.completion_tokens
    turn.finish_reason, turn.finished_at, turn.model = result.finish_reason, now, result.model
    await session.flush()
    await forget_summaries_of_turns(session, [(turn.dialog_id, turn_id)])
    await session.execute(
        update(ReplyVariant)
        .where(ReplyVariant.turn_id == turn_id, ReplyVariant.active)
        .values(
            reply=turn.reply,
            completion_tokens=turn.completion_tokens,
            finish_reason=result.finish_reason,
            model=result.model,
        )
    )
    await record_prompt(session, key=key, turn_id=turn_id, record=result.prompt, now=now)
    await ready_delivery(session, key=key, turn_id=turn_id, messages=result.messages)
    await session.execute(update(Dialog).where(Dialog.id == turn.dialog_id).values(last_active_at=now))
    await add_usage(session, key=key, result=result, now=now, new_turn=False)
    return True


async def forget_turn(session: AsyncSession, *, key: DialogKey, turn_id: int) -> bool:
    """Delete one turn that is not pending, with all its replies. False if the key has no such turn."""
    dialog_id = await session.scalar(
        delete(Turn)
        .where(Turn.id == turn_id, Turn.status != "pending")
        .where(Turn.dialog_id.in_(select(Dialog.id).where(matches_key(key))))
        .returning(Turn.dialog_id)
    )
    if dialog_id is not None:
        await forget_memory_of_turns(session, [(dialog_id, turn_id)])
    return dialog_id is not None


async def forget_last(session: AsyncSession, *, key: DialogKey, count: int, own_only: bool = False) -> int:
    """Delete the last `count` finished pairs of the key's open dialog; return how many were deleted.

    `own_only`: of a shared dialog, those that the member asked for.
    """
    last = select(Turn.id).join(Dialog).where(matches_key(key), is_open(), Turn.status == "done")
    if own_only:
        last = last.where(Turn.author_id == key.user_id)
    last = last.order_by(Turn.id.desc()).limit(max(0, count))
    deleted = await session.execute(delete(Turn).where(Turn.id.in_(last)).returning(Turn.dialog_id, Turn.id))
    turns = [(row.dialog_id, row.id) for row in deleted]
    await forget_memory_of_turns(session, turns)
    return len(turns)
