"""Threads that a member started for a conversation with the bot. Called by bot/guilds/bound_threads.py.

The key's channel is the thread. A binding goes with its thread, with its guild, and when it was not used for as long as
conversations are kept.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import ensure_guild, ensure_user, insert_if_absent, num_deleted
from models.queries.deletion.retention import RetentionLimits, cutoff
from models.queries.privacy.opt_outs import has_opted_out
from models.queries.scope import cross_tenant
from models.tables import BoundThread
from models.types import DialogKey, ThreadBinding


async def bind_thread(session: AsyncSession, *, key: DialogKey, parent_id: int, now: datetime) -> bool:
    """Bind the key's thread; its member asked for it. False if it was bound before."""
    await ensure_guild(session, key.guild_id, now)
    opted_out = await has_opted_out(session, key=key)
    if not opted_out:
        await ensure_user(session, key.user_id, now)
    return await insert_if_absent(
        session,
        BoundThread,
        thread_id=key.channel_id,
        guild_id=key.guild_id,
        parent_id=parent_id,
        creator_id=None if opted_out else key.user_id,
        created_at=now,
        last_used_at=now,
    )


async def thread_binding(session: AsyncSession, *, key: DialogKey) -> ThreadBinding | None:
    """Return the binding of the key's channel, or None."""
    row = await session.scalar(
        select(BoundThread).where(
            BoundThread.thread_id == key.channel_id, ours(BoundThread), BoundThread.guild_id == key.guild_id
        )
    )
    if row is None:
        return None
    return ThreadBinding(row.thread_id, row.guild_id, row.parent_id, row.last_used_at, row.creator_id)


async def use_thread(session: AsyncSession, *, key: DialogKey, now: datetime) -> None:
    """Record that members still talk in the key's thread."""
    await session.execute(
        update(BoundThread)
        .where(BoundThread.thread_id == key.channel_id, ours(BoundThread), BoundThread.guild_id == key.guild_id)
        .values(last_used_at=now)
    )


@cross_tenant("a thread was deleted, with the dialogs of all its members")
async def unbind_thread(session: AsyncSession, *, guild_id: int, thread_id: int) -> bool:
    """Delete the binding of a thread that is gone. False if there was none."""
    statement = delete(BoundThread).where(
        BoundThread.thread_id == thread_id, ours(BoundThread), BoundThread.guild_id == guild_id
    )
    return num_deleted(await session.execute(statement)) > 0


@cross_tenant("a channel was deleted with all its threads")
async def unbind_threads_of(session: AsyncSession, *, guild_id: int, parent_id: int) -> tuple[int, ...]:
    """Delete the bindings of all threads of a channel that is gone; return their ids."""
    statement = delete(BoundThread).where(
        BoundThread.parent_id == parent_id, ours(BoundThread), BoundThread.guild_id == guild_id
    )
    return tuple(await session.scalars(statement.returning(BoundThread.thread_id)))


@cross_tenant("cleanup serves every tenant")
async def delete_unused_bindings(session: AsyncSession, *, limits: RetentionLimits, now: datetime, limit: int) -> int:
    """Delete a batch of bindings whose conversations have ended and been deleted; return how many."""
    before = cutoff(now, limits.session_ttl + limits.retention)
    unused = select(BoundThread.thread_id).where(ours(BoundThread), BoundThread.last_used_at < before).limit(limit)
    statement = (
        delete(BoundThread)
        .where(ours(BoundThread), BoundThread.thread_id.in_(unused))
        .execution_options(synchronize_session=False)
    )
    return num_deleted(await session.execute(statement))
