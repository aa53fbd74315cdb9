"""The summaries of dialogs, and what becomes of them when a pair that they cover is changed or deleted.

Called by the queries that change pairs, in the same transaction and after the change: by then the pair's row is locked,
so that no summary of it can be stored any more (see `store_summary`).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import and_, delete, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec, insert, is_open, matches_key, num_deleted
from models.queries.memory.forgetting import forgotten_until, may_be_summarised
from models.tables import Dialog, DialogSummary, Fact, Turn, TurnPrompt
from models.types import DialogKey, RememberedPair, Summary

_BATCH = 500  # ids in one statement


async def summary_of(
    session: AsyncSession, *, key: DialogKey, dialog_id: int | None = None, before_turn: int | None = None
) -> Summary | None:
    """Return the newest summary of a dialog of the key, by default of the open one.

    `before_turn`: one that covers only what was said before this turn.
    """
    found = select(DialogSummary).join(Dialog, Dialog.id == DialogSummary.dialog_id).where(matches_key(key))
    found = found.where(is_open() if dialog_id is None else Dialog.id == dialog_id)
    if before_turn is not None:
        found = found.where(DialogSummary.to_turn_id < before_turn)
    row = await session.scalar(found.order_by(DialogSummary.to_turn_id.desc(), DialogSummary.id.desc()).limit(1))
    return None if row is None else _summary(session, row)


async def summary_by_id(session: AsyncSession, *, key: DialogKey, summary_id: int) -> Summary | None:
    """Return a summary of one of the key's dialogs, or None if it is gone."""
    found = select(DialogSummary).join(Dialog, Dialog.id == DialogSummary.dialog_id)
    row = await session.scalar(found.where(matches_key(key), DialogSummary.id == summary_id))
    return None if row is None else _summary(session, row)


async def store_summary(
    session: AsyncSession,
    *,
    key: DialogKey,
    dialog_id: int,
    text: str,
    before: Summary | None,
    pairs: Collection[RememberedPair],
    now: datetime,
) -> bool:
    """Store a summary of `before` and of these pairs. False if any of that was changed or forgotten meanwhile.

    In a dialog of their own the member may have had everything forgotten.

    Earlier ones that no prompt refers to are deleted.
    """
    newest = await summary_of(session, key=key, dialog_id=dialog_id)
    if (newest and newest.summary_id) != (before and before.summary_id):
        return False
    if not key.shared:
        await forgotten_until(session, key=key)  # it does not change before the commit
    rows = await session.execute(
        select(Turn.id, Turn.finished_at)
        .join(Dialog)
        .where(matches_key(key), Dialog.id == dialog_id, Turn.status == "done")
        .where(Turn.id.in_([pair.turn_id for pair in pairs]), may_be_summarised(key))
        .with_for_update(read=True, of=Turn)
    )
    if {(row.id, row.finished_at) for row in rows} != {(pair.turn_id, pair.finished_at) for pair in pairs}:
        return False
    values = {
        "dialog_id": dialog_id,
        "from_turn_id": min(pair.turn_id for pair in pairs) if before is None else before.from_turn_id,
        "to_turn_id": max(pair.turn_id for pair in pairs),
        "text": codec(session).seal(text),
        "created_at": now,
    }
    stored = await session.scalar(insert(session, DialogSummary).values(**values).returning(DialogSummary.id))
    in_a_prompt = exists().where(TurnPrompt.summary_id == DialogSummary.id)
    await session.execute(
        delete(DialogSummary)
        .where(DialogSummary.dialog_id == dialog_id, DialogSummary.id != stored, ~in_a_prompt)
        .execution_options(synchronize_session=False)
    )
    return True


async def forget_summaries(session: AsyncSession, *, key: DialogKey) -> int:
    """Delete all summaries of the key's open dialog; return how many."""
    dialogs = select(Dialog.id).where(matches_key(key), is_open())
    gone = delete(DialogSummary).where(DialogSummary.dialog_id.in_(dialogs))
    return num_deleted(await session.execute(gone.execution_options(synchronize_session=False)))


async def forget_own_summaries(session: AsyncSession, *, key: DialogKey) -> int:
    """Delete the summaries of all dialogs that the member has alone in this guild; return how many dialogs had one."""
    dialogs = select(Dialog.id).where(ours(Dialog), Dialog.guild_id == key.guild_id, Dialog.user_id == key.user_id)
    gone = delete(DialogSummary).where(DialogSummary.dialog_id.in_(dialogs)).returning(DialogSummary.dialog_id)
    rows = await session.scalars(gone.execution_options(synchronize_session=False))
    return len(set(rows))


async def forget_summaries_of_turns(session: AsyncSession, turns: Collection[tuple[int, int]]) -> None:
    """Delete every summary that covers one of these turns, each the id of its dialog and its own."""
    listed = sorted(turns)
    for start in range(0, len(listed), _BATCH):
        covers = [
            and_(
                DialogSummary.dialog_id == dialog_id,
                DialogSummary.from_turn_id <= turn_id,
                DialogSummary.to_turn_id >= turn_id,
            )
            for dialog_id, turn_id in listed[start : start + _BATCH]
        ]
        gone = delete(DialogSummary).where(or_(*covers))
        await session.execute(gone.execution_options(synchronize_session=False))


async def forget_memory_of_turns(session: AsyncSession, turns: Collection[tuple[int, int]]) -> None:
    """The same with the facts that these turns told: their member wants them forgotten."""
    await forget_summaries_of_turns(session, turns)
    ids = [turn_id for _, turn_id in turns]
    for start in range(0, len(ids), _BATCH):
        gone = delete(Fact).where(ours(Fact), Fact.source_turn_id.in_(ids[start : start + _BATCH]))
        await session.execute(gone.execution_options(synchronize_session=False))


def _summary(session: AsyncSession, row: DialogSummary) -> Summary:
    return Summary(row.id, codec(session).open(row.text), row.from_turn_id, row.to_turn_id, row.created_at)
