"""Guilds that come and go. Removal only marks: the purge follows after a grace period, and a return cancels it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import ensure_guild
from models.queries.scope import across_tenants
from models.tables import Dialog, Guild


@across_tenants("the bot was removed from a whole guild")
async def guild_removed(session: AsyncSession, *, guild_id: int, now: datetime) -> int:
    """Ends the guild's dialogs and starts its grace period; returns how many were ended.

    For a confirmed removal only, never for a guild that is merely unavailable.
    """
    await session.execute(update(Guild).where(Guild.id == guild_id, Guild.removed_at.is_(None)).values(removed_at=now))
    ended = await session.scalars(
        update(Dialog)
        .where(Dialog.guild_id == guild_id, Dialog.ended_at.is_(None))
        .values(ended_at=now, end_reason="removed")
        .returning(Dialog.id)
    )
    return len(ended.all())


@across_tenants("the bot is in a whole guild again")
async def guild_joined(session: AsyncSession, *, guild_id: int, now: datetime) -> bool:
    """Cancels the purge of a guild. True if one was waiting: its personas and settings are as they were."""
    await ensure_guild(session, guild_id, now)
    await session.execute(update(Guild).where(Guild.id == guild_id, Guild.joined_at.is_(None)).values(joined_at=now))
    back = await session.scalar(
        update(Guild)
        .where(Guild.id == guild_id, Guild.removed_at.is_not(None))
        .values(removed_at=None)
        .returning(Guild.id)
    )
    return back is not None


@across_tenants("what happened to whole guilds while the bot was away")
async def reconcile_guilds(session: AsyncSession, *, present: Collection[int], now: datetime) -> tuple[int, ...]:
    """Compares with the gateway's list after READY (unavailable guilds are on it). Returns the guilds found removed.

    A return is acted on at once; an absence only marks, and the grace period does the rest. Guilds that the gateway
    never named (those of the terminal) are left alone.
    """
    known = (await session.execute(select(Guild.id, Guild.joined_at, Guild.removed_at).where(Guild.id != 0))).all()
    for row in known:
        if row.id in present and (row.removed_at is not None or row.joined_at is None):
            await guild_joined(session, guild_id=row.id, now=now)
    absent = (row for row in known if row.id not in present)
    gone = tuple(row.id for row in absent if row.joined_at is not None and row.removed_at is None)
    for guild_id in gone:
        await guild_removed(session, guild_id=guild_id, now=now)
    return gone
