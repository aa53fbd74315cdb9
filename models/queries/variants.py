"""Changing what was said: regenerate a reply (the old one is kept), choose one, forget pairs, undo a reset."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, of_dialog
from models.queries.personas import effective_persona
from models.queries.policy import add_usage, enforce, policy
from models.queries.turns import pairs_before, take_up
from models.tables import Dialog, ReplyVariant, Turn
from models.types import DialogKey, RegenerationRow, TurnResult, Variant


async def begin_regeneration(
    session: AsyncSession,
    *,
    key: DialogKey,
    limit: int,
    turn_id: int | None = None,
    interaction_id: int | None = None,
    reply_token: str | None = None,
    application_id: int | None = None,
    role_turns: int | None = None,
    now: datetime,
) -> RegenerationRow | None:
    """T1 of another reply to a finished turn of the open dialog (the last one by default). None if there is none.

    The turn stays done with the reply it has, so a crash costs nothing but the new reply.
    """
    found = await policy(session, key=key, limit=limit, now=now)
    if interaction_id is not None:
        await take_up(session, key=key, interaction_id=interaction_id, now=now)
    enforce(found, role_turns=role_turns, now=now)
    chosen = select(Turn).join(Dialog).where(of_dialog(key), Dialog.ended_at.is_(None), Turn.status == "done")
    if turn_id is not None:
        chosen = chosen.where(Turn.id == turn_id)
    turn = await session.scalar(chosen.order_by(Turn.id.desc()).limit(1))
    if turn is None:
        return None
    await session.execute(
        update(Turn)
        .where(Turn.id == turn.id)
        .values(reply_token=reply_token, application_id=application_id, owner=session.info.get("owner"))
    )
    history = await pairs_before(session, turn.dialog_id, turn.id, found.settings.max_chat_logs or 0)
    persona = await effective_persona(session, key=key)
    text = codec(session).open(turn.user_text)
    return RegenerationRow(turn.id, turn.dialog_id, text, persona, history, found.settings)


async def finish_regeneration(
    session: AsyncSession, *, key: DialogKey, turn_id: int, result: TurnResult, now: datetime
) -> bool:
    """T2 of another reply: it becomes the active one, the one before it is kept. False if the turn is gone or reset.

    Repeating it with the same `now` after a lost connection changes nothing more.
    """
    turn = await _open_turn(session, key, turn_id)
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
            )
        )
    sealed = codec(session).seal(result.reply)
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
        )
    )
    turn.reply, turn.reply_token = sealed, None
    turn.prompt_tokens, turn.completion_tokens = result.prompt_tokens, result.completion_tokens
    turn.finish_reason, turn.finished_at = result.finish_reason, now
    turn.first_token_ms, turn.total_ms = result.first_token_ms, result.total_ms
    await session.flush()
    await session.execute(update(Dialog).where(Dialog.id == turn.dialog_id).values(last_active_at=now))
    await add_usage(
        session,
        key=key,
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        now=now,
        new_turn=False,
    )
    return True


async def drop_reply_token(session: AsyncSession, *, key: DialogKey, turn_id: int) -> None:
    """A regeneration that failed leaves the turn as it was; only its waiting message needs no more care."""
    await session.execute(
        update(Turn)
        .where(Turn.id == turn_id, Turn.dialog_id.in_(select(Dialog.id).where(of_dialog(key))))
        .values(reply_token=None)
    )


async def variants(session: AsyncSession, *, key: DialogKey, turn_id: int) -> tuple[Variant, ...]:
    """All replies of a turn, oldest first; empty if it was never regenerated."""
    rows = await session.scalars(
        select(ReplyVariant)
        .join(Turn, Turn.id == ReplyVariant.turn_id)
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .where(of_dialog(key), Turn.id == turn_id)
        .order_by(ReplyVariant.position)
    )
    return tuple(Variant(row.position, codec(session).open(row.reply), row.active) for row in rows)


async def select_variant(session: AsyncSession, *, key: DialogKey, turn_id: int, position: int) -> bool:
    """Puts one of the kept replies into the history. False if there is no such reply."""
    turn = await _open_turn(session, key, turn_id)
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
    await session.flush()
    return True


async def forget_turn(session: AsyncSession, *, key: DialogKey, turn_id: int) -> bool:
    """Deletes one finished pair with all its replies. False if the key has no such pair."""
    gone = await session.scalar(
        delete(Turn)
        .where(Turn.id == turn_id, Turn.status != "pending")
        .where(Turn.dialog_id.in_(select(Dialog.id).where(of_dialog(key))))
        .returning(Turn.id)
    )
    return gone is not None


async def forget_last(session: AsyncSession, *, key: DialogKey, count: int) -> int:
    """Deletes the last `count` pairs of the open dialog; returns how many there were."""
    last = (
        select(Turn.id)
        .join(Dialog)
        .where(of_dialog(key), Dialog.ended_at.is_(None), Turn.status == "done")
        .order_by(Turn.id.desc())
        .limit(max(0, count))
    )
    gone = await session.scalars(delete(Turn).where(Turn.id.in_(last)).returning(Turn.id))
    return len(gone.all())


async def reopen_dialog(session: AsyncSession, *, key: DialogKey, within: timedelta, now: datetime) -> bool:
    """Undoes the last /reset if it was at most `within` ago and nothing was said since."""
    if await session.scalar(select(Dialog.id).where(of_dialog(key), Dialog.ended_at.is_(None))) is not None:
        return False
    last = (
        select(Dialog.id)
        .where(of_dialog(key), Dialog.end_reason == "reset", Dialog.ended_at >= now - within)
        .order_by(Dialog.ended_at.desc(), Dialog.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    reopened = await session.scalar(
        update(Dialog).where(Dialog.id == last).values(ended_at=None, end_reason=None).returning(Dialog.id)
    )
    return reopened is not None


async def _open_turn(session: AsyncSession, key: DialogKey, turn_id: int) -> Turn | None:
    found: Turn | None = await session.scalar(
        select(Turn)
        .join(Dialog)
        .where(of_dialog(key), Dialog.ended_at.is_(None), Turn.id == turn_id, Turn.status == "done")
        .with_for_update(of=Turn)
        .execution_options(populate_existing=True)
    )
    return found
