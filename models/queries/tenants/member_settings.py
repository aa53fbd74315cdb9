"""What a member chose for a guild. The key selects both; its channel is ignored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import current_application, ours
from models.queries.common import ensure_guild, ensure_user, upsert
from models.queries.privacy.opt_outs import has_opted_out
from models.tables import MemberSettingsRow, User
from models.types import DialogKey, MemberSettings


async def member_settings(session: AsyncSession, *, key: DialogKey) -> MemberSettings:
    """Return the member's settings in this guild; all defaults if none are stored."""
    identity = (key.guild_id, key.user_id, current_application())
    row = await session.get(MemberSettingsRow, identity, populate_existing=True)
    if row is None:
        return MemberSettings()
    return MemberSettings(**{field.name: getattr(row, field.name) for field in fields(MemberSettings)})


async def set_member_settings(
    session: AsyncSession, *, key: DialogKey, settings: MemberSettings, now: datetime
) -> None:
    """Replace the member's settings."""
    await _store(session, key, asdict(settings), now)


async def change_member_settings(
    session: AsyncSession,
    *,
    key: DialogKey,
    change: Callable[[MemberSettings], MemberSettings],
    now: datetime,
) -> MemberSettings | None:
    """Apply `change` to what the member chose, and return the new settings; None if they opted out of all storage.

    Called by bot/guilds/settings/member_settings.py. Memory has a function of its own, and stays as it is.
    """
    if await has_opted_out(session, key=key):
        return None
    await ensure_user(session, key.user_id, now)
    # Two changes of one member follow each other. As in change_guild_settings, foreign keys are not blocked.
    await session.scalar(select(User.id).where(ours(User), User.id == key.user_id).with_for_update(key_share=True))
    before = await member_settings(session, key=key)
    after = change(before)
    if after != before:
        chosen = asdict(after)
        del chosen["memory"]
        await _store(session, key, chosen, now)
    return after


async def set_member_memory(session: AsyncSession, *, key: DialogKey, memory: bool, now: datetime) -> bool:
    """Record whether the member wants to be remembered in this guild. False if they opted out of all storage."""
    if await has_opted_out(session, key=key):
        return False
    await _store(session, key, {"memory": memory}, now)
    return True


async def _store(session: AsyncSession, key: DialogKey, chosen: dict[str, Any], now: datetime) -> None:
    await ensure_guild(session, key.guild_id, now)
    await ensure_user(session, key.user_id, now)
    identity = {"guild_id": key.guild_id, "user_id": key.user_id}
    await upsert(session, MemberSettingsRow, identity, {**chosen, "updated_at": now})
