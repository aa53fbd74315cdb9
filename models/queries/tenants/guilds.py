"""Records that the bot joined or left a guild. Called by bot/cogs/guild_events.py.

A removal only marks the guild: after a grace period it is purged (purge.py), unless the bot joins again before.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import ensure_guild, insert
from models.queries.scope import cross_tenant
from models.tables import Dialog, Guild, GuildProfile
from models.types import DIRECT_MESSAGES, WHOLE, Shard


@cross_tenant("the bot was removed from a whole guild")
async def guild_removed(session: AsyncSession, *, guild_id: int, now: datetime) -> int:
    """End the guild's dialogs and start its grace period; return how many dialogs were ended.

    Call it for a confirmed removal only, never for a guild that is unavailable.
    """
    await session.execute(
        update(Guild).where(ours(Guild), Guild.id == guild_id, Guild.removed_at.is_(None)).values(removed_at=now)
    )
    await session.execute(
        delete(GuildProfile).where(ours(GuildProfile), GuildProfile.guild_id == guild_id)
    )  # it went with the membership
    ended = await session.scalars(
        update(Dialog)
        .where(ours(Dialog), Dialog.guild_id == guild_id, Dialog.ended_at.is_(None))
        .values(ended_at=now, end_reason="removed")
        .returning(Dialog.id)
    )
    return len(ended.all())


@cross_tenant("the bot is in a whole guild again")
async def guild_joined(session: AsyncSession, *, guild_id: int, now: datetime) -> bool:
    """Record that the bot is in the guild, and cancel its purge. True if a purge was due: nothing was lost."""
    await ensure_guild(session, guild_id, now)
    await session.execute(
        update(Guild).where(ours(Guild), Guild.id == guild_id, Guild.joined_at.is_(None)).values(joined_at=now)
    )
    rejoined = await session.scalar(
        update(Guild)
        .where(ours(Guild), Guild.id == guild_id, Guild.removed_at.is_not(None))
        .values(removed_at=None)
        .returning(Guild.id)
    )
    return rejoined is not None


@cross_tenant("whole guilds may have been removed while the bot was offline")
async def reconcile_guilds(
    session: AsyncSession, *, present: Collection[int], shard: Shard = WHOLE, now: datetime
) -> tuple[int, ...]:
    """Catch up on joins and removals that happened offline; return the ids of the guilds found removed.

    `present`: the gateway's list after READY, which includes unavailable guilds. It is that of one `shard`: of guilds
    that belong to others it says nothing. All of them are recorded, so that their removal is noticed later. Guilds that
    the gateway never named (the operator set a persona for them) are left alone.
    """
    rows = select(Guild.id, Guild.joined_at, Guild.removed_at).where(ours(Guild), Guild.id != DIRECT_MESSAGES)
    known = [row for row in (await session.execute(rows)).all() if shard.has(row.id)]
    for row in known:
        if row.id in present and (row.removed_at is not None or row.joined_at is None):
            await guild_joined(session, guild_id=row.id, now=now)
    new = set(present) - {row.id for row in known}
    if new:
        rows_of_new = [{"id": each, "first_seen_at": now, "joined_at": now} for each in sorted(new)]
        await session.execute(insert(session, Guild).on_conflict_do_nothing(), rows_of_new)
    absent = (row for row in known if row.id not in present)
    removed = tuple(row.id for row in absent if row.joined_at is not None and row.removed_at is None)
    for guild_id in removed:
        await guild_removed(session, guild_id=guild_id, now=now)
    return removed
