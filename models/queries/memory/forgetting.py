"""All that is remembered of a member goes, and so does what a model still writes of what they said before.

The moment is stored with the member's settings. The transaction that stores notes locks the row and compares the moment
with what was said: so notes are stored before this and deleted by it, or not stored at all.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.tables import MemberSettingsRow, Turn
from models.types import DialogKey


async def forget_before(session: AsyncSession, *, key: DialogKey, now: datetime) -> None:
    """Let nothing that was said until now be remembered of the member in this guild.

    Without settings they have not asked to be remembered, and there is nothing to record.
    """
    await session.execute(
        update(MemberSettingsRow)
        .where(
            ours(MemberSettingsRow),
            MemberSettingsRow.guild_id == key.guild_id,
            MemberSettingsRow.user_id == key.user_id,
        )
        .values(forgotten_at=now)
        .execution_options(synchronize_session=False)
    )


async def forget_guild_before(session: AsyncSession, *, key: DialogKey, member_id: int | None, now: datetime) -> None:
    """Do the same for all members of the key's guild, or for one of them: an admin had their notes deleted."""
    members = update(MemberSettingsRow).where(
        ours(MemberSettingsRow), MemberSettingsRow.guild_id == key.guild_id, MemberSettingsRow.memory.is_not(None)
    )
    if member_id is not None:
        members = members.where(MemberSettingsRow.user_id == member_id)
    await session.execute(members.values(forgotten_at=now).execution_options(synchronize_session=False))


async def forgotten_until(session: AsyncSession, *, key: DialogKey) -> datetime | None:
    """Return the moment up to which nothing is to be remembered of the member; it stays so until the commit."""
    moment: datetime | None = await session.scalar(
        select(MemberSettingsRow.forgotten_at)
        .where(
            ours(MemberSettingsRow),
            MemberSettingsRow.guild_id == key.guild_id,
            MemberSettingsRow.user_id == key.user_id,
        )
        .with_for_update(read=True)
    )
    return moment


def may_be_summarised(key: DialogKey) -> ColumnElement[bool]:
    """Return the condition that a summary may cover a Turn of this key's dialog. A shared one is not one member's."""
    forgotten = exists().where(
        ours(MemberSettingsRow),
        MemberSettingsRow.guild_id == key.guild_id,
        MemberSettingsRow.user_id == key.owner_id,
        MemberSettingsRow.forgotten_at >= Turn.created_at,
    )
    return ~forgotten.correlate(Turn)
