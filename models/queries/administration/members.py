"""What an admin sees of one member of their guild, and which of the member's replies are being written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.administration.blocks import block_of
from models.queries.tenants.policy import usage
from models.tables import Dialog, Turn
from models.types import DialogKey, MemberOverview


async def member_overview(session: AsyncSession, *, key: DialogKey, days: int, now: datetime) -> MemberOverview:
    """Return the use of the key's member in the key's guild, today and in the last `days` days, and their block."""
    today = now.astimezone(UTC).date()
    used = await usage(session, key=key, since=today - timedelta(days=days - 1))
    of_today = next((each for each in used if each.day == today), None)
    last = (
        select(Turn.created_at)
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .where(ours(Turn), ours(Dialog), Turn.author_id == key.user_id, Dialog.guild_id == key.guild_id)
        .order_by(Turn.id.desc())
        .limit(1)
    )
    return MemberOverview(
        messages_today=of_today.messages if of_today else 0,
        tokens_today=of_today.prompt_tokens + of_today.completion_tokens if of_today else 0,
        messages=sum(each.messages for each in used),
        tokens=sum(each.prompt_tokens + each.completion_tokens for each in used),
        last_asked_at=await session.scalar(last),
        block=await block_of(session, key=key, now=now),
    )


async def pending_questions(session: AsyncSession, *, key: DialogKey) -> tuple[int, ...]:
    """Return what asked for the replies that are being written to the key's member in the key's guild."""
    rows = await session.scalars(
        select(Turn.interaction_id)
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .where(ours(Turn), Turn.status == "pending", Turn.author_id == key.user_id)
        .where(ours(Dialog), Dialog.guild_id == key.guild_id)
    )
    return tuple(each for each in rows if each is not None)
