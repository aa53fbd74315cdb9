"""Members whom the admins of a guild have blocked. The key names the guild, and the member where it is about one."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import current_application, ours
from models.queries.common import codec, num_deleted, upsert
from models.queries.scope import cross_tenant
from models.queries.tenants.audit import record_audit
from models.tables import MemberBlock
from models.types import Block, DialogKey

MAX_BLOCKS = 5_000
"""Blocked members of one guild that are kept in mind, the last ones."""


async def block_of(session: AsyncSession, *, key: DialogKey, now: datetime) -> Block | None:
    """Return the block of the key's member that holds now."""
    row = await session.get(MemberBlock, (key.guild_id, key.user_id, current_application()), populate_existing=True)
    found = None if row is None else _block(session, row)
    return found if found is not None and found.holds(now) else None


async def blocks_of_guild(session: AsyncSession, *, key: DialogKey, now: datetime) -> tuple[Block, ...]:
    """Return the blocks that hold now in the key's guild."""
    rows = await session.scalars(
        select(MemberBlock)
        .where(ours(MemberBlock), MemberBlock.guild_id == key.guild_id)
        .where(or_(MemberBlock.until.is_(None), MemberBlock.until > now))
        .order_by(MemberBlock.blocked_at.desc())
        .limit(MAX_BLOCKS)
    )
    return tuple(_block(session, row) for row in rows)


async def block_member(
    session: AsyncSession,
    *,
    key: DialogKey,
    blocked: bool,
    actor_id: int | None,
    now: datetime,
    reason: str | None = None,
    until: datetime | None = None,
) -> bool:
    """Block the key's member in the key's guild, anew if they were, or unblock them; it is in the audit log.

    False if somebody was to be unblocked who is not blocked.
    """
    if not blocked:
        gone = delete(MemberBlock).where(
            ours(MemberBlock), MemberBlock.guild_id == key.guild_id, MemberBlock.user_id == key.user_id
        )
        was = num_deleted(await session.execute(gone.execution_options(synchronize_session=False))) > 0
        await record_audit(session, key=key, actor_id=actor_id, target_id=key.user_id, action="member.unblock", now=now)
        return was
    # The audit first: it makes sure that the guild and the actor are stored, to whom the block refers.
    await record_audit(
        session,
        key=key,
        actor_id=actor_id,
        target_id=key.user_id,
        action="member.block",
        details={
            "seconds": None if until is None else round((until - now).total_seconds()),
            "reason": reason is not None,
        },
        now=now,
    )
    values = {
        "blocked_at": now,
        "until": until,
        "blocked_by": actor_id,
        "reason": None if reason is None else codec(session).seal(reason),
    }
    await upsert(session, MemberBlock, {"guild_id": key.guild_id, "user_id": key.user_id}, values)
    return True


@cross_tenant("cleanup of every guild")
async def delete_ended_blocks(session: AsyncSession, *, now: datetime, limit: int) -> int:
    """Delete a batch of the blocks that have ended; return how many."""
    member = (MemberBlock.guild_id, MemberBlock.user_id)
    ended = (ours(MemberBlock), MemberBlock.until < now)
    batch = tuple_(*member).in_(select(*member).where(*ended).limit(limit))
    # `ended` once more: one of them may have been blocked anew meanwhile.
    gone = delete(MemberBlock).where(*ended, batch).execution_options(synchronize_session=False)
    return num_deleted(await session.execute(gone))


def _block(session: AsyncSession, row: MemberBlock) -> Block:
    reason = None if row.reason is None else codec(session).open(row.reason)
    return Block(row.user_id, row.blocked_at, row.until, row.blocked_by, reason)
