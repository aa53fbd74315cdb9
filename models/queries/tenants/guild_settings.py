"""What the admins of a guild chose. The key selects the guild; its member and channel are ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta
from typing import Any, get_args

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import current_application, ours
from models.queries.common import codec, ensure_guild, upsert
from models.queries.tenants.audit import record_audit
from models.tables import (
    ChannelScope,
    Guild,
    GuildChannel,
    GuildFilterWord,
    GuildRole,
    GuildSettingsRow,
    LockedChannel,
)
from models.types import DialogKey, DialogScope, GuildSettings, RolePolicy

_SAME = tuple(
    field.name
    for field in fields(GuildSettings)
    if field.name in GuildSettingsRow.__table__.columns and field.name != "moderation_thresholds"
)
"""Settings that the column of the same name holds as they are."""
_LISTS = (GuildChannel, GuildRole, ChannelScope, LockedChannel)
"""Tables of which a guild has a row for each channel or role."""


async def guild_settings(session: AsyncSession, *, key: DialogKey) -> GuildSettings:
    """Return the settings of the key's guild; all defaults if none are stored."""
    row = await session.get(GuildSettingsRow, (key.guild_id, current_application()), populate_existing=True)
    channels = await session.scalars(
        select(GuildChannel.channel_id).where(ours(GuildChannel), GuildChannel.guild_id == key.guild_id)
    )
    roles = await session.scalars(
        select(GuildRole).where(ours(GuildRole), GuildRole.guild_id == key.guild_id).order_by(GuildRole.role_id)
    )
    scopes = await session.execute(
        select(ChannelScope.channel_id, ChannelScope.dialog_scope)
        .where(ours(ChannelScope), ChannelScope.guild_id == key.guild_id)
        .order_by(ChannelScope.channel_id)
    )
    words = await session.scalars(
        select(GuildFilterWord.word)
        .where(ours(GuildFilterWord), GuildFilterWord.guild_id == key.guild_id)
        .order_by(GuildFilterWord.position)
    )
    locked = await session.scalars(
        select(LockedChannel.channel_id).where(ours(LockedChannel), LockedChannel.guild_id == key.guild_id)
    )
    listed = GuildSettings(
        channel_scopes=tuple((each.channel_id, _scope(each.dialog_scope)) for each in scopes),
        channels=frozenset(channels),
        roles=tuple(_role(role) for role in roles),
        locked_channels=frozenset(locked),
        filter_words=tuple(map(codec(session).open, words)),
    )
    if row is None:
        return listed
    return replace(
        listed,
        session_ttl=None if row.session_ttl_s is None else timedelta(seconds=row.session_ttl_s),
        moderation_thresholds=tuple(sorted(json.loads(row.moderation_thresholds).items())),
        **{name: getattr(row, name) for name in _SAME},
    )


async def chosen_model(session: AsyncSession, *, key: DialogKey) -> str | None:
    """Return the name of the model that the key's guild has chosen; None if it has not."""
    mine = (ours(GuildSettingsRow), GuildSettingsRow.guild_id == key.guild_id)
    return await session.scalar(select(GuildSettingsRow.model).where(*mine))


async def set_guild_settings(
    session: AsyncSession,
    *,
    key: DialogKey,
    settings: GuildSettings,
    actor_id: int | None,
    now: datetime,
    action: str = "config.set",
) -> None:
    """Replace the guild's settings, and record the changes in the audit log, each with its old and new value."""
    before = await guild_settings(session, key=key)
    await ensure_guild(session, key.guild_id, now)
    values = {
        **{name: getattr(settings, name) for name in _SAME},
        "session_ttl_s": None if settings.session_ttl is None else round(settings.session_ttl.total_seconds()),
        "moderation_thresholds": json.dumps(dict(settings.moderation_thresholds), sort_keys=True),
        "updated_at": now,
    }
    await upsert(session, GuildSettingsRow, {"guild_id": key.guild_id}, values)
    for table in _LISTS:
        await session.execute(delete(table).where(ours(table), table.guild_id == key.guild_id))
    session.add_all(GuildChannel(guild_id=key.guild_id, channel_id=channel) for channel in settings.channels)
    session.add_all(LockedChannel(guild_id=key.guild_id, channel_id=channel) for channel in settings.locked_channels)
    session.add_all(GuildRole(guild_id=key.guild_id, **asdict(role)) for role in settings.roles)
    session.add_all(
        ChannelScope(guild_id=key.guild_id, channel_id=channel_id, dialog_scope=scope)
        for channel_id, scope in settings.channel_scopes
    )
    if settings.filter_words != before.filter_words:
        await _set_filter_words(session, key, settings.filter_words)
    await session.flush()
    if changed := _changes(before, settings):
        await record_audit(session, key=key, actor_id=actor_id, action=action, details=changed, now=now)


async def change_guild_settings(
    session: AsyncSession,
    *,
    key: DialogKey,
    change: Callable[[GuildSettings], GuildSettings],
    actor_id: int | None,
    now: datetime,
    action: str = "config.set",
) -> GuildSettings:
    """Apply `change` to the guild's settings under a lock, so that concurrent changes of two admins both hold.

    Called by bot/guilds/settings/settings_cache.py. Returns the new settings.
    """
    await ensure_guild(session, key.guild_id, now)
    # FOR NO KEY UPDATE: plain FOR UPDATE would also block the foreign keys of every new dialog of the guild.
    await session.scalar(select(Guild.id).where(ours(Guild), Guild.id == key.guild_id).with_for_update(key_share=True))
    before = await guild_settings(session, key=key)
    after = change(before)
    if after != before:
        await set_guild_settings(session, key=key, settings=after, actor_id=actor_id, now=now, action=action)
    return after


async def _set_filter_words(session: AsyncSession, key: DialogKey, words: tuple[str, ...]) -> None:
    mine = (ours(GuildFilterWord), GuildFilterWord.guild_id == key.guild_id)
    await session.execute(delete(GuildFilterWord).where(*mine))
    seal = codec(session).seal
    session.add_all(
        GuildFilterWord(guild_id=key.guild_id, position=position, word=seal(word))
        for position, word in enumerate(words)
    )


def _role(row: GuildRole) -> RolePolicy:
    return RolePolicy(**{field.name: getattr(row, field.name) for field in fields(RolePolicy)})


def _scope(stored: str) -> DialogScope:
    return next(scope for scope in get_args(DialogScope) if scope == stored)


def _changes(before: GuildSettings, after: GuildSettings) -> dict[str, dict[str, Any]]:
    """Return the changed fields, each with its old and its new value."""
    pairs = {field.name: (getattr(before, field.name), getattr(after, field.name)) for field in fields(GuildSettings)}
    return {
        name: {"old": _recorded(name, old), "new": _recorded(name, new)}
        for name, (old, new) in pairs.items()
        if old != new
    }


def _recorded(name: str, value: Any) -> Any:
    """Return a value as the audit log keeps it: of filtered words only the number."""
    return len(value) if name == "filter_words" else _plain(value)


def _plain(value: Any) -> Any:
    """Return a value of the settings as JSON can hold it: times in seconds, lists in order."""
    if isinstance(value, timedelta):
        return round(value.total_seconds())
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, RolePolicy):
        return {name: each for name, each in asdict(value).items() if each is not None}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
