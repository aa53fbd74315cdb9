"""Figures of a guild's use: by day from the counts of usage, and times of the last answers.

Both are bounded whatever the guild has: usage is found by guild and day, and of the conversations that were used last
only a fixed number of answers is read. None of it counts turns.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, time, timedelta

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from models.application import ours
from models.tables import DailyUsage, Dialog, Persona, Turn, TurnPrompt
from models.types import AnswerTiming, DayFigures, DialogKey, GuildFigures

NUM_DIALOGS = 200
"""Conversations whose answers are looked at, the last used ones."""
NUM_ANSWERS = 50
"""Answers of each of them, the last ones."""


async def guild_figures(session: AsyncSession, *, key: DialogKey, days: int, now: datetime) -> GuildFigures:
    """Return the use of the key's guild in the last `days` UTC days, today included."""
    since = now.astimezone(UTC).date() - timedelta(days=days - 1)
    used = (ours(DailyUsage), DailyUsage.guild_id == key.guild_id, DailyUsage.day >= since)
    tokens = func.sum(DailyUsage.prompt_tokens + DailyUsage.completion_tokens)
    rows = await session.execute(
        select(
            DailyUsage.day,
            cast(func.sum(DailyUsage.turns + DailyUsage.more_replies), BigInteger).label("messages"),
            func.count(DailyUsage.user_id).label("members"),
            cast(tokens, BigInteger).label("tokens"),
        )
        .where(*used)
        .group_by(DailyUsage.day)
        .order_by(DailyUsage.day)
    )
    members = await session.scalar(select(func.count(DailyUsage.user_id.distinct())).where(*used))
    answers = await _answers(session, key, datetime.combine(since, time(), UTC))
    return GuildFigures(
        days=tuple(DayFigures(row.day, int(row.messages), int(row.members), int(row.tokens)) for row in rows),
        members=int(members or 0),
        answers=answers,
        persona_names=await persona_names(session, key=key, persona_ids={each.persona_id for each in answers}),
    )


async def _answers(session: AsyncSession, key: DialogKey, since: datetime) -> tuple[AnswerTiming, ...]:
    """Return the times of the last answers of the conversations that were used last."""
    used = (
        select(Dialog.id)
        .where(ours(Dialog), Dialog.guild_id == key.guild_id, Dialog.last_active_at >= since)
        .order_by(Dialog.last_active_at.desc())
        .limit(NUM_DIALOGS)
    )
    return await answer_timings(session, tuple(await session.scalars(used)), since)


async def answer_timings(
    session: AsyncSession, dialog_ids: Collection[int], since: datetime
) -> tuple[AnswerTiming, ...]:
    """Return the times of the last answers of these dialogs. The caller must have found them by their key."""
    if not dialog_ids:
        return ()
    last = aliased(Turn)
    nth = select(last.id).where(last.dialog_id == Dialog.id).order_by(last.id.desc()).offset(NUM_ANSWERS - 1).limit(1)
    oldest = func.coalesce(nth.correlate(Dialog).scalar_subquery(), 0)  # of a dialog that has fewer, all
    rows = await session.execute(
        select(Turn.first_token_ms, Turn.total_ms, Turn.completion_tokens, TurnPrompt.persona_id)
        .select_from(Dialog)
        .join(Turn, Turn.dialog_id == Dialog.id)
        .outerjoin(TurnPrompt, TurnPrompt.turn_id == Turn.id)
        .where(
            ours(Dialog), Dialog.id.in_(dialog_ids), Turn.id >= oldest, Turn.status == "done", Turn.created_at >= since
        )
    )
    return tuple(AnswerTiming(*row) for row in rows)


async def persona_names(
    session: AsyncSession, *, key: DialogKey, persona_ids: Collection[int | None]
) -> dict[int, str]:
    """Return the names of those personas that belong to the library of the key's guild."""
    wanted = [each for each in persona_ids if each is not None]
    rows = await session.execute(
        select(Persona.id, Persona.name).where(
            ours(Persona), Persona.guild_id == key.guild_id, Persona.id.in_(wanted), Persona.owner_id.is_(None)
        )
    )
    return {row.id: row.name for row in rows}
