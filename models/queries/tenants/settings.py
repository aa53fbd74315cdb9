"""Settings of guilds and members, and the audit log.

The key selects the guild (and the member, for member settings); its channel is ignored.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, get_args

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import current_application, ours
from models.queries.common import codec, ensure_guild, ensure_user, insert
from models.queries.scope import cross_tenant
from models.tables import (
    AuditEntry,
    ChannelScope,
    Guild,
    GuildChannel,
    GuildFilterWord,
    GuildRole,
    GuildSettingsRow,
    LockedChannel,
    MemberSettingsRow,
    OptOut,
    User,
)
from models.types import (
    AuditRecord,
    DialogKey,
    DialogScope,
    GuildSettings,
    MemberSettings,
    OwnPersonas,
    PersonaFace,
    RolePolicy,
)

_NUMBERS = (
    "minute_messages", "running_replies", "guild_minute_messages", "guild_running_replies", "guild_daily_turns",
    "guild_daily_tokens",
)  # fmt: skip
"""Limits whose column, field and meaning have one name."""


async def guild_settings(session: AsyncSession, *, key: DialogKey) -> GuildSettings:
    """Return the settings of the key's guild; all defaults if none are stored."""
    row = await session.get(GuildSettingsRow, (key.guild_id, current_application()))
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
    opened = codec(session).open
    locked = await session.scalars(
        select(LockedChannel.channel_id).where(ours(LockedChannel), LockedChannel.guild_id == key.guild_id)
    )
    listed = GuildSettings(
        channel_scopes=tuple((row.channel_id, _scope(row.dialog_scope)) for row in scopes),
        channels=frozenset(channels),
        roles=tuple(_role(role) for role in roles),
        locked_channels=frozenset(locked),
        filter_words=tuple(map(opened, words)),
    )
    if row is None:
        return listed
    return dataclasses.replace(
        listed,
        dialog_scope=_scope(row.dialog_scope),
        max_chat_logs=row.max_chat_logs,
        max_reply_tokens=row.max_reply_tokens,
        retention_days=row.retention_days,
        session_ttl=None if row.session_ttl_s is None else timedelta(seconds=row.session_ttl_s),
        daily_turns=row.daily_turns,
        daily_tokens=row.daily_tokens,
        own_personas=_own_personas(row.own_personas),
        streaming=row.streaming,
        locale=row.locale,
        memory=row.memory,
        persona_face=_face(row.persona_face),
        files=row.files,
        moderation=row.moderation,
        moderation_thresholds=tuple(sorted(json.loads(row.moderation_thresholds).items())),
        **{name: getattr(row, name) for name in _NUMBERS},
    )


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
    await _upsert(
        session,
        GuildSettingsRow,
        {"guild_id": key.guild_id},
        {
            "dialog_scope": settings.dialog_scope,
            "max_chat_logs": settings.max_chat_logs,
            "max_reply_tokens": settings.max_reply_tokens,
            "retention_days": settings.retention_days,
            "session_ttl_s": None if settings.session_ttl is None else round(settings.session_ttl.total_seconds()),
            "daily_turns": settings.daily_turns,
            "daily_tokens": settings.daily_tokens,
            "own_personas": settings.own_personas,
            "streaming": settings.streaming,
            "locale": settings.locale,
            "memory": settings.memory,
            "persona_face": settings.persona_face,
            "files": settings.files,
            "moderation": settings.moderation,
            "moderation_thresholds": json.dumps(dict(settings.moderation_thresholds), sort_keys=True),
            **{name: getattr(settings, name) for name in _NUMBERS},
            "updated_at": now,
        },
    )
    await session.execute(delete(GuildChannel).where(ours(GuildChannel), GuildChannel.guild_id == key.guild_id))
    await session.execute(delete(GuildRole).where(ours(GuildRole), GuildRole.guild_id == key.guild_id))
    await session.execute(delete(ChannelScope).where(ours(ChannelScope), ChannelScope.guild_id == key.guild_id))
    await session.execute(delete(LockedChannel).where(ours(LockedChannel), LockedChannel.guild_id == key.guild_id))
    if settings.filter_words != before.filter_words:
        await session.execute(
            delete(GuildFilterWord).where(ours(GuildFilterWord), GuildFilterWord.guild_id == key.guild_id)
        )
        session.add_all(
            GuildFilterWord(guild_id=key.guild_id, position=position, word=codec(session).seal(word))
            for position, word in enumerate(settings.filter_words)
        )
    session.add_all(
        ChannelScope(guild_id=key.guild_id, channel_id=channel_id, dialog_scope=scope)
        for channel_id, scope in settings.channel_scopes
    )
    session.add_all(GuildChannel(guild_id=key.guild_id, channel_id=channel) for channel in settings.channels)
    session.add_all(LockedChannel(guild_id=key.guild_id, channel_id=channel) for channel in settings.locked_channels)
    session.add_all(
        GuildRole(
            guild_id=key.guild_id,
            role_id=role.role_id,
            allowed=role.allowed,
            daily_turns=role.daily_turns,
            own_persona=role.own_persona,
            minute_messages=role.minute_messages,
            running_replies=role.running_replies,
            daily_tokens=role.daily_tokens,
        )
        for role in settings.roles
    )
    await session.flush()
    changed = _changes(before, settings)
    if changed:
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


async def member_settings(session: AsyncSession, *, key: DialogKey) -> MemberSettings:
    """Return the member's settings in this guild; all defaults if none are stored."""
    row = await session.get(MemberSettingsRow, (key.guild_id, key.user_id, current_application()))
    if row is None:
        return MemberSettings()
    return MemberSettings(row.max_chat_logs, row.retention_days, row.private, row.locale, row.memory)


async def set_member_settings(
    session: AsyncSession, *, key: DialogKey, settings: MemberSettings, now: datetime
) -> None:
    """Replace the member's settings."""
    await _upsert_member(
        session,
        key,
        {
            "max_chat_logs": settings.max_chat_logs,
            "retention_days": settings.retention_days,
            "private": settings.private,
            "locale": settings.locale,
            "memory": settings.memory,
            "updated_at": now,
        },
        now,
    )


async def change_member_settings(
    session: AsyncSession,
    *,
    key: DialogKey,
    change: Callable[[MemberSettings], MemberSettings],
    now: datetime,
) -> MemberSettings | None:
    """Apply `change` to what the member chose, and return the new settings; None if they opted out of all storage.

    Called by bot/guilds/settings/member_settings.py. Memory and blocks stay as they are: they have functions of their
    own.
    """
    if await session.scalar(select(OptOut.user_id).where(ours(OptOut), OptOut.user_id == key.user_id)) is not None:
        return None
    await ensure_user(session, key.user_id, now)
    # Two changes of one member follow each other. As in change_guild_settings, foreign keys are not blocked.
    await session.scalar(select(User.id).where(ours(User), User.id == key.user_id).with_for_update(key_share=True))
    before = await member_settings(session, key=key)
    after = change(before)
    if after != before:
        chosen = {name: getattr(after, name) for name in ("max_chat_logs", "retention_days", "private", "locale")}
        await _upsert_member(session, key, {**chosen, "updated_at": now}, now)
    return after


async def set_member_memory(session: AsyncSession, *, key: DialogKey, memory: bool, now: datetime) -> bool:
    """Record whether the member wants to be remembered in this guild. False if they opted out of all storage."""
    if await session.scalar(select(OptOut.user_id).where(ours(OptOut), OptOut.user_id == key.user_id)) is not None:
        return False
    await _upsert_member(session, key, {"memory": memory, "updated_at": now}, now)
    return True


async def record_audit(
    session: AsyncSession,
    *,
    key: DialogKey,
    actor_id: int | None,
    action: str,
    now: datetime,
    target_id: int | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Record an admin's action in the key's guild. `details` must never hold message or persona text."""
    await ensure_guild(session, key.guild_id, now)
    for person in {actor_id, target_id} - {None}:
        await ensure_user(session, int(person or 0), now)
    session.add(
        AuditEntry(
            guild_id=key.guild_id,
            actor_id=actor_id,
            target_id=target_id,
            action=action,
            details=json.dumps(details or {}, sort_keys=True),
            created_at=now,
        )
    )
    await session.flush()


async def audit_log(session: AsyncSession, *, key: DialogKey, limit: int) -> tuple[AuditRecord, ...]:
    """Return the newest audit log entries of the key's guild, newest first."""
    rows = await session.scalars(
        select(AuditEntry)
        .where(ours(AuditEntry), AuditEntry.guild_id == key.guild_id)
        .order_by(AuditEntry.id.desc())
        .limit(limit)
    )
    return tuple(
        AuditRecord(row.guild_id, row.actor_id, row.target_id, row.action, row.details, row.created_at, row.id)
        for row in rows
    )


async def _upsert_member(session: AsyncSession, key: DialogKey, values: dict[str, Any], now: datetime) -> None:
    await ensure_guild(session, key.guild_id, now)
    await ensure_user(session, key.user_id, now)
    await _upsert(session, MemberSettingsRow, {"guild_id": key.guild_id, "user_id": key.user_id}, values)


async def _upsert(
    session: AsyncSession,
    table: type[GuildSettingsRow] | type[MemberSettingsRow],
    identity: dict[str, int],
    values: dict[str, Any],
) -> None:
    """Insert the row, or update it if its primary key (`identity`) exists."""
    statement = insert(session, table).values(**identity, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=[*identity, "application_id"], set_=values))
    # The session's identity map may hold the old row.
    row = await session.get(table, (*identity.values(), current_application()))
    if row is not None:
        await session.refresh(row)


def _role(row: GuildRole) -> RolePolicy:
    return RolePolicy(
        row.role_id,
        row.allowed,
        row.daily_turns,
        row.own_persona,
        row.minute_messages,
        row.running_replies,
        row.daily_tokens,
    )


def _scope(text: str) -> DialogScope:
    return next(scope for scope in get_args(DialogScope) if scope == text)


def _own_personas(text: str) -> OwnPersonas:
    return next(who for who in get_args(OwnPersonas) if who == text)


def _face(text: str) -> PersonaFace:
    return next(face for face in get_args(PersonaFace) if face == text)


def _changes(before: GuildSettings, after: GuildSettings) -> dict[str, dict[str, Any]]:
    """Return the changed fields, each with its old and its new value."""
    pairs = {
        field.name: (getattr(before, field.name), getattr(after, field.name))
        for field in dataclasses.fields(GuildSettings)
    }
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
        return {name: each for name, each in dataclasses.asdict(value).items() if each is not None}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


@cross_tenant("a deletion may concern every guild, and its record names no member")
async def record_receipt(
    session: AsyncSession,
    *,
    guild_id: int | None,
    actor_id: int | None,
    action: str,
    details: dict[str, Any],
    now: datetime,
) -> None:
    """Record a deletion by row counts. A guild or an actor that is no longer stored becomes NULL."""
    session.add(
        AuditEntry(
            guild_id=await session.scalar(select(Guild.id).where(ours(Guild), Guild.id == guild_id)),
            actor_id=await session.scalar(select(User.id).where(ours(User), User.id == actor_id)),
            action=action,
            details=json.dumps(details, sort_keys=True),
            created_at=now,
        )
    )
    await session.flush()
