"""One conversation as the operator reads it: its turns by pages, whose words are not shown, and its end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec
from models.queries.dialogs.turn_files import files_of
from models.queries.operator.paging import OPERATOR, counted
from models.queries.scope import cross_tenant
from models.queries.tenants.audit import record_audit
from models.tables import Dialog, MemberSettingsRow, OptOut, ReplyVariant, Turn, TurnPrompt
from models.types import DIRECT_MESSAGES, DialogKey, PromptParts, StoredFile
from models.types.operator import TurnView

REASON = "operator"
"""Why a dialog ended."""


@cross_tenant(OPERATOR)
async def turn_views(
    session: AsyncSession, *, guild_id: int, dialog_id: int, words: bool, after: int, limit: int
) -> tuple[TurnView, ...]:
    """Return the next turns of a dialog in any state, oldest first. `words`: with their texts, opened.

    The words of those who opted out are left out in any case, also where another one quotes them.
    """
    rows = (
        await session.execute(
            select(Turn, TurnPrompt)
            .join(Dialog, Dialog.id == Turn.dialog_id)
            .outerjoin(TurnPrompt, TurnPrompt.turn_id == Turn.id)
            .where(ours(Dialog), Dialog.guild_id == guild_id, Dialog.id == dialog_id, Turn.id > after)
            .order_by(Turn.id)
            .limit(limit)
        )
    ).all()
    ids = [row.Turn.id for row in rows]
    silent = await opted_out(session, user_ids={row.Turn.author_id for row in rows if row.Turn.author_id is not None})
    variants = await session.execute(
        select(ReplyVariant.turn_id, func.count()).where(ReplyVariant.turn_id.in_(ids)).group_by(ReplyVariant.turn_id)
    )
    replies = {turn_id: number for turn_id, number in variants}
    earlier = select(Turn.id).where(Turn.dialog_id == dialog_id, Turn.id <= after, Turn.status == "done")
    num_before = int(await session.scalar(select(counted(earlier))) or 0)
    views = []
    for row in rows:
        views.append(_figures(row.Turn, row.TurnPrompt, replies.get(row.Turn.id, 1), num_before, silent))
        num_before += row.Turn.status == "done"
    if not words:
        return tuple(views)
    shown = [row.Turn for row, view in zip(rows, views, strict=True) if not view.withheld]
    files = await _files(session, [turn.id for turn in shown])
    opened = {turn.id: turn for turn in shown}
    return tuple(_with_words(session, view, opened.get(view.turn_id), files.get(view.turn_id, ())) for view in views)


@cross_tenant(OPERATOR)
async def dialog_of_turn(session: AsyncSession, *, guild_id: int, turn_id: int) -> int | None:
    """Return the dialog of a turn of this guild, or None."""
    here = select(Turn.dialog_id).join(Dialog, Dialog.id == Turn.dialog_id)
    found: int | None = await session.scalar(here.where(ours(Dialog), Dialog.guild_id == guild_id, Turn.id == turn_id))
    return found


@cross_tenant("an opt-out holds everywhere")
async def opted_out(session: AsyncSession, *, user_ids: Collection[int]) -> frozenset[int]:
    """Return which of these people opted out."""
    if not user_ids:
        return frozenset()
    found = select(OptOut.user_id).where(ours(OptOut), OptOut.user_id.in_(user_ids))
    return frozenset(await session.scalars(found))


@cross_tenant(OPERATOR)
async def silent_speakers(session: AsyncSession, *, parts: PromptParts) -> bool:
    """Return whether a prompt may have words of somebody who opted out: who asked, who spoke before, who is quoted."""
    turns = [parts.turn_id, *(pair.turn_id for pair in parts.history)]
    spoken = select(Turn.author_id).where(ours(Turn), Turn.id.in_(turns))
    if parts.summary is not None:  # it tells what anybody said in the dialog before
        spoken = select(Turn.author_id).where(ours(Turn), or_(Turn.id.in_(turns), Turn.dialog_id == parts.dialog_id))
    authors = set(await session.scalars(spoken.distinct()))
    files = [*parts.files, *(file for pair in parts.history for file in pair.files)]
    named = {*authors, *(file.author_id for file in files), parts.key.user_id}
    return bool(await opted_out(session, user_ids={each for each in named if each is not None}))


async def is_private(session: AsyncSession, *, key: DialogKey) -> bool:
    """Return whether the key's dialog is kept from others: in direct messages, or of a member who chose that."""
    if key.shared:
        return False
    if key.guild_id == DIRECT_MESSAGES:
        return True
    chosen = select(MemberSettingsRow.private).where(
        ours(MemberSettingsRow), MemberSettingsRow.guild_id == key.guild_id, MemberSettingsRow.user_id == key.user_id
    )
    return bool(await session.scalar(chosen))


@cross_tenant(OPERATOR)
async def end_dialog_by_operator(session: AsyncSession, *, guild_id: int, dialog_id: int, now: datetime) -> bool:
    """End a dialog of this guild, parked or not, and record it. False if it had ended, or belongs to another guild.

    A reply that is being written is shown, and not kept, as after a reset.
    """
    mine = (ours(Dialog), Dialog.guild_id == guild_id, Dialog.id == dialog_id, Dialog.ended_at.is_(None))
    ended = await session.execute(
        update(Dialog)
        .where(*mine)
        .values(ended_at=now, end_reason=REASON)
        .returning(Dialog.user_id)
        .execution_options(synchronize_session=False)
    )
    row = ended.one_or_none()
    if row is not None:
        await record_audit(
            session,
            key=DialogKey(guild_id, 0),
            actor_id=None,
            target_id=row.user_id or None,
            action="operator.end",
            details={"dialog": dialog_id},
            now=now,
        )
    return row is not None


def _figures(
    turn: Turn, prompt: TurnPrompt | None, num_replies: int, num_before: int, silent: Collection[int]
) -> TurnView:
    return TurnView(
        turn_id=turn.id,
        author_id=turn.author_id,
        status=turn.status,
        created_at=turn.created_at,
        prompt_tokens=turn.prompt_tokens,
        completion_tokens=turn.completion_tokens,
        finish_reason=turn.finish_reason,
        model=turn.model,
        first_token_ms=turn.first_token_ms,
        total_ms=turn.total_ms,
        error_id=turn.error_id,
        persona_id=None if prompt is None else prompt.persona_id,
        persona_version=None if prompt is None else prompt.persona_version,
        num_pairs=None if prompt is None else prompt.num_pairs,
        first_turn_id=None if prompt is None else prompt.first_turn_id,
        num_left_out=0 if prompt is None else max(0, num_before - prompt.num_pairs),
        summarised=prompt is not None and prompt.summary_id is not None,
        num_replies=num_replies,
        withheld=turn.author_id in silent,
    )


def _with_words(session: AsyncSession, view: TurnView, turn: Turn | None, files: tuple[StoredFile, ...]) -> TurnView:
    if turn is None:
        return view
    opened = codec(session).open
    return replace(
        view,
        author_name=None if turn.author_name is None else opened(turn.author_name),
        user_text=opened(turn.user_text),
        reply=None if turn.reply is None else opened(turn.reply),
        answered_by=None if turn.speaker_name is None else opened(turn.speaker_name),
        files=files,
    )


async def _files(session: AsyncSession, turn_ids: Sequence[int]) -> dict[int, tuple[StoredFile, ...]]:
    """The files of these turns, without what somebody wrote who opted out."""
    files = await files_of(session, turn_ids=turn_ids)
    authors = {file.author_id for each in files.values() for file in each if file.author_id is not None}
    silent = await opted_out(session, user_ids=authors)
    return {turn_id: tuple(file for file in each if file.author_id not in silent) for turn_id, each in files.items()}
