"""Opt-outs: who wants nothing stored of what they write, in any guild, and since when.

An opt-out is no part of a person's data: it outlives its deletion. Called by bot/guilds/privacy.py.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import insert_if_absent
from models.queries.scope import cross_tenant
from models.tables import Dialog, OptOut
from models.types import DialogKey


@cross_tenant("an opt-out holds everywhere")
async def opt_out(session: AsyncSession, *, user_id: int, now: datetime) -> bool:
    """Record the opt-out and end the person's open dialogs. False if they had opted out before."""
    inserted = await insert_if_absent(session, OptOut, user_id=user_id, since=now)
    await session.execute(
        update(Dialog)
        .where(ours(Dialog), Dialog.user_id == user_id, Dialog.ended_at.is_(None))
        .values(ended_at=now, end_reason="opt-out")
    )
    return inserted


@cross_tenant("an opt-out holds everywhere")
async def opt_in(session: AsyncSession, *, user_id: int) -> bool:
    """Delete the opt-out. False if there was none."""
    return (
        await session.scalar(delete(OptOut).where(ours(OptOut), OptOut.user_id == user_id).returning(OptOut.user_id))
        is not None
    )


@cross_tenant("an opt-out holds everywhere")
async def opted_out_since(session: AsyncSession, *, user_id: int) -> datetime | None:
    """Return when the person opted out, or None."""
    since: datetime | None = await session.scalar(select(OptOut.since).where(ours(OptOut), OptOut.user_id == user_id))
    return since


async def has_opted_out(session: AsyncSession, *, key: DialogKey) -> bool:
    """Return whether the key's member wants nothing stored."""
    return await opted_out_since(session, user_id=key.user_id) is not None
