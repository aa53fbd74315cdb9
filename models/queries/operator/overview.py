"""Figures of one application for the operator's first page, each from an index or a bounded number of rows."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import BigInteger, Select, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.administration.figures import NUM_DIALOGS, answer_timings
from models.queries.common import is_open
from models.queries.operator.paging import OPERATOR, counted
from models.queries.scope import cross_tenant
from models.tables import DailyUsage, Dialog, Guild, Turn, User
from models.types import DayFigures
from models.types.operator import OperatorFigures

MOST = 100_000
"""Rows that a figure counts; more are shown as "100,000+"."""


@cross_tenant(OPERATOR)
async def days_of_use(session: AsyncSession, *, first: date, last: date) -> tuple[DayFigures, ...]:
    """Return the use of this application on those days from `first` to `last` that have any. Reads all rows of them."""
    tokens = func.sum(DailyUsage.prompt_tokens + DailyUsage.completion_tokens)
    used = await session.execute(
        select(
            DailyUsage.day,
            cast(func.sum(DailyUsage.turns + DailyUsage.more_replies), BigInteger).label("messages"),
            func.count(DailyUsage.user_id.distinct()).label("members"),
            cast(tokens, BigInteger).label("tokens"),
        )
        .where(ours(DailyUsage), DailyUsage.day.between(first, last))
        .group_by(DailyUsage.day)
        .order_by(DailyUsage.day)
    )
    return tuple(DayFigures(row.day, int(row.messages), int(row.members), int(row.tokens)) for row in used)


@cross_tenant(OPERATOR)
async def operator_figures(session: AsyncSession, *, since: date) -> OperatorFigures:
    """Return how much this application has now, and the times of its last answers since a UTC day."""
    last_used = select(Dialog.id).where(ours(Dialog))
    going_on = last_used.where(Dialog.ended_at.is_(None)).order_by(Dialog.last_active_at.desc()).limit(NUM_DIALOGS)
    ended = last_used.where(Dialog.ended_at.is_not(None)).order_by(Dialog.ended_at.desc()).limit(NUM_DIALOGS)
    dialogs = {*await session.scalars(going_on), *await session.scalars(ended)}

    async def number(rows: Select[Any]) -> int:
        return int(await session.scalar(select(counted(rows, MOST))) or 0)

    return OperatorFigures(
        answers=await answer_timings(session, dialogs, datetime.combine(since, time(), UTC)),
        num_guilds=await number(select(Guild.id).where(ours(Guild), Guild.removed_at.is_(None))),
        num_members=await number(select(User.id).where(ours(User))),
        num_open_dialogs=await number(select(Dialog.id).where(ours(Dialog), is_open())),
        num_pending=await number(select(Turn.id).where(ours(Turn), Turn.status == "pending")),
    )
