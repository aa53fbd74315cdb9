"""Parts of the operator's lists: counts with a limit, and the next distinct members of a guild's table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.application import ours

MOST_COUNTED = 1000
"""Rows of a list's cell that are counted: more are shown as "1,000+"."""
OPERATOR = "the operator's page"
"""Why these queries cross tenants."""


def counted(rows: Select[Any], most: int = MOST_COUNTED) -> ScalarSelect[int]:
    """The number of rows, at most one more than `most`: an index is read no further."""
    return select(func.count()).select_from(rows.limit(most + 1).subquery()).scalar_subquery()


async def next_members(
    session: AsyncSession, column: InstrumentedAttribute[int], guild_id: int, after: int, limit: int
) -> list[int]:
    """Return the next distinct members that a table names in a guild, each found with one step in its index."""
    table = column.class_

    def next_after(member: ColumnElement[int] | int) -> Select[int]:
        return select(func.min(column)).where(ours(table), table.guild_id == guild_id, column > member)

    found: list[int] = []
    members = select(next_after(after).scalar_subquery().label("user_id")).cte("members", recursive=True)
    following = select(next_after(members.c.user_id).scalar_subquery()).where(members.c.user_id.is_not(None))
    steps = members.union_all(following)
    rows = await session.scalars(select(steps.c.user_id).where(steps.c.user_id.is_not(None)).limit(limit))
    found.extend(int(each) for each in rows)
    return found
