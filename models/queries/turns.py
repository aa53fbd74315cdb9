"""T1 and T2 and what lies around them: begin, finish, fail, end a dialog, read its history.

Queries never commit. Each statement names the whole key, so a turn id from elsewhere touches nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlalchemy import ScalarSelect, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.errors import DuplicateInteraction
from models.queries.common import attempt, codec, ensure_guild, ensure_user, insert, insert_missing, of_dialog
from models.queries.personas import effective_persona
from models.queries.policy import add_anonymous_usage, add_usage, enforce, policy
from models.tables import Dialog, ProcessedInteraction, Turn
from models.types import DialogKey, Pair, PendingTurnRow, TurnResult


async def begin_turn(
    session: AsyncSession,
    *,
    key: DialogKey,
    text: str,
    limit: int,
    interaction_id: int | None = None,
    reply_token: str | None = None,
    application_id: int | None = None,
    role_turns: int | None = None,
    now: datetime,
) -> PendingTurnRow:
    """T1: opens the dialog if none is open, stores the pending turn, returns the snapshot to build the prompt from.

    `limit` is the operator's number of pairs, which the guild's and the member's settings may change. Refuses an
    interaction that was taken up before, a blocked member, and one whose day is used up (`role_turns`: the daily
    quota of the member's role). Of a member who opted out, only the interaction's id is kept.
    """
    found = await policy(session, key=key, limit=limit, now=now)
    if interaction_id is not None:
        await take_up(session, key=key, interaction_id=interaction_id, now=now)
    enforce(found, role_turns=role_turns, now=now)
    persona = await effective_persona(session, key=key)
    if found.settings.opted_out:
        return PendingTurnRow(turn_id=0, dialog_id=0, persona=persona, history=(), settings=found.settings)
    dialog_id = await _open_dialog(session, key, now)
    pairs = await pairs_before(session, dialog_id, None, found.settings.max_chat_logs or 0)
    turn_id = await session.scalar(
        insert(session, Turn)
        .values(
            dialog_id=dialog_id,
            interaction_id=interaction_id,
            status="pending",
            user_text=codec(session).seal(text),
            reply_token=reply_token,
            application_id=application_id,
            owner=session.info.get("owner"),
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=["interaction_id"])
        .returning(Turn.id)
    )
    if turn_id is None:  # only an interaction id can be in the way
        turn_id = await _own_earlier_attempt(session, dialog_id, interaction_id, now)
    return PendingTurnRow(turn_id, dialog_id, persona, pairs, found.settings)


async def finish_turn(
    session: AsyncSession, *, key: DialogKey, turn_id: int, result: TurnResult, now: datetime
) -> bool:
    """T2. True if the pair is remembered; False if /reset came first or the turn is no longer pending.

    Repeating it after a lost connection gives the same answer, whether or not the first try was committed.
    """
    if turn_id == 0:
        await _count_opted_out(session, key, result, now)
        return False
    reply = codec(session).seal(result.reply)
    still_open = select(Dialog.id).where(of_dialog(key), Dialog.ended_at.is_(None))
    dialog_id = await session.scalar(
        update(Turn)
        .where(Turn.id == turn_id, Turn.status == "pending", Turn.dialog_id.in_(still_open))
        .values(
            status="done",
            reply=reply,
            reply_token=None,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            finish_reason=result.finish_reason,
            first_token_ms=result.first_token_ms,
            total_ms=result.total_ms,
            finished_at=now,
        )
        .returning(Turn.dialog_id)
    )
    if dialog_id is not None:
        await session.execute(update(Dialog).where(Dialog.id == dialog_id).values(last_active_at=now))
        await add_usage(
            session,
            key=key,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            now=now,
            new_turn=True,
        )
        return True
    await fail_turn(session, key=key, turn_id=turn_id, status="interrupted", error_id=None, now=now)
    stored = await session.scalar(
        select(Turn.reply).join(Dialog).where(of_dialog(key), Turn.id == turn_id, Turn.status == "done")
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
    """Ends a pending turn without a reply. A turn that is no longer pending stays as it is."""
    await session.execute(
        update(Turn)
        .where(
            Turn.id == turn_id,
            Turn.status == "pending",
            Turn.dialog_id.in_(select(Dialog.id).where(of_dialog(key))),
        )
        .values(status=status, error_id=error_id, reply_token=None, finished_at=now)
    )


async def end_dialog(session: AsyncSession, *, key: DialogKey, now: datetime) -> int:
    """/reset: ends the open dialog and returns how many pairs it held.

    A turn that is still running stays pending and ends as interrupted when its reply comes: shown, not remembered.
    """
    dialog_id = await session.scalar(
        update(Dialog)
        .where(of_dialog(key), Dialog.ended_at.is_(None))
        .values(ended_at=now, end_reason="reset")
        .returning(Dialog.id)
    )
    if dialog_id is None:
        return 0
    pairs = await session.scalar(
        select(func.count()).select_from(Turn).where(Turn.dialog_id == dialog_id, Turn.status == "done")
    )
    return pairs or 0


async def history(session: AsyncSession, *, key: DialogKey, limit: int) -> tuple[Pair, ...]:
    """The last `limit` pairs of the open dialog, oldest first."""
    dialog = select(Dialog.id).where(of_dialog(key), Dialog.ended_at.is_(None)).scalar_subquery()
    return await pairs_before(session, dialog, None, limit)


async def _open_dialog(session: AsyncSession, key: DialogKey, now: datetime) -> int:
    """The open dialog's id, its row locked until the transaction ends."""
    touch = (
        update(Dialog).where(of_dialog(key), Dialog.ended_at.is_(None)).values(last_active_at=now).returning(Dialog.id)
    )
    found = await session.scalar(touch)
    if found is None:
        await ensure_guild(session, key.guild_id, now)
        await ensure_user(session, key.user_id, now)
        await insert_missing(
            session,
            Dialog,
            guild_id=key.guild_id,
            user_id=key.user_id,
            channel_id=key.channel_id,
            opened_at=now,
            last_active_at=now,
        )
        # Ours, or the one that another process opened in the same moment.
        found = (await session.scalars(touch)).one()
    return found


async def pairs_before(
    session: AsyncSession, dialog_id: int | ScalarSelect[int], turn_id: int | None, limit: int
) -> tuple[Pair, ...]:
    """The last `limit` pairs of a dialog that the caller found by its key; those before `turn_id` if one is given."""
    if limit <= 0:
        return ()
    chosen = select(Turn.id, Turn.user_text, Turn.reply).where(Turn.dialog_id == dialog_id, Turn.status == "done")
    if turn_id is not None:
        chosen = chosen.where(Turn.id < turn_id)
    rows = await session.execute(chosen.order_by(Turn.id.desc()).limit(limit))
    text = codec(session)
    newest_first = [Pair(row.id, text.open(row.user_text), text.open(row.reply)) for row in rows]
    return tuple(reversed(newest_first))


async def take_up(session: AsyncSession, *, key: DialogKey, interaction_id: int, now: datetime) -> None:
    """Notes an interaction or message as processed, in the transaction that acts on it. Refuses a second time."""
    if await insert_missing(session, ProcessedInteraction, interaction_id=interaction_id, processed_at=now):
        return
    if attempt(session) > 1:
        # When the answer to our COMMIT was lost, the row in the way is our own: it bears the same instant.
        at = await session.scalar(
            select(ProcessedInteraction.processed_at).where(ProcessedInteraction.interaction_id == interaction_id)
        )
        if at == now:
            return
    raise DuplicateInteraction(interaction_id)


async def _count_opted_out(session: AsyncSession, key: DialogKey, result: TurnResult, now: datetime) -> None:
    if (await policy(session, key=key, now=now)).counts_usage:
        await add_anonymous_usage(
            session,
            key=key,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            now=now,
        )


async def _own_earlier_attempt(session: AsyncSession, dialog_id: int, interaction_id: int | None, now: datetime) -> int:
    """The pending row of a first attempt whose COMMIT went through although its answer was lost."""
    if attempt(session) > 1:
        turn_id = await session.scalar(
            select(Turn.id).where(
                Turn.interaction_id == interaction_id,
                Turn.dialog_id == dialog_id,
                Turn.status == "pending",
                Turn.owner == session.info.get("owner"),
                Turn.created_at == now,
            )
        )
        if turn_id is not None:
            return turn_id
    raise DuplicateInteraction(interaction_id or 0)
