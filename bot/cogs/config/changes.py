"""The changes that /config makes, as pure functions from a guild's settings to its new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from bot.guilds.settings.limits import OF_ROLES, OPERATORS
from bot.guilds.settings.settings_cache import Change
from models.types import GuildSettings, RolePolicy

Setting = Literal[
    "everything",
    "max_chat_logs",
    "max_reply_tokens",
    "retention_days",
    "scope",
    "channel_scopes",
    "daily_messages",
    "daily_tokens",
    "channels",
    "roles",
    "memory",
    "own_personas",
    "persona_locks",
    "persona_face",
    "idle_time",
    "streaming",
    "files",
    "language",
    "limits",
    "minute_messages",
    "running_replies",
    "guild_limits",
    "role_limits",
    "filter",
    "moderation",
]
"""What `/config reset` knows: 25 at most, Discord's limit. The panel resets each setting on its own."""
RESETS: Mapping[Setting, Change] = {
    "everything": lambda old: GuildSettings(),
    "max_chat_logs": lambda old: replace(old, max_chat_logs=None),
    "max_reply_tokens": lambda old: replace(old, max_reply_tokens=None),
    "retention_days": lambda old: replace(old, retention_days=None),
    "scope": lambda old: replace(old, dialog_scope="member"),
    "channel_scopes": lambda old: replace(old, channel_scopes=()),
    "daily_messages": lambda old: replace(old, daily_turns=None),
    "daily_tokens": lambda old: replace(old, daily_tokens=None),
    "memory": lambda old: replace(old, memory=False),
    "channels": lambda old: replace(old, channels=frozenset()),
    "roles": lambda old: _with_roles(old, (replace(role, allowed=False, daily_turns=None) for role in old.roles)),
    "own_personas": lambda old: _with_roles(
        replace(old, own_personas="members"), (replace(role, own_persona=False) for role in old.roles)
    ),
    "persona_locks": lambda old: replace(old, locked_channels=frozenset()),
    "persona_face": lambda old: replace(old, persona_face="off"),
    "idle_time": lambda old: replace(old, session_ttl=None),
    "streaming": lambda old: replace(old, streaming=True),
    "files": lambda old: replace(old, files=True),
    "language": lambda old: replace(old, locale=None),
    "filter": lambda old: replace(old, filter_words=(), moderation=False, moderation_thresholds=()),
    "moderation": lambda old: replace(old, moderation=False),
    "limits": lambda old: _without_role_limits(replace(old, **_unset(OPERATORS))),
    "minute_messages": lambda old: replace(old, minute_messages=None),
    "running_replies": lambda old: replace(old, running_replies=None),
    "guild_limits": lambda old: replace(old, **_unset(set(OPERATORS) - set(OF_ROLES))),
    "role_limits": lambda old: _without_role_limits(old),
}


def given(**options: Any) -> dict[str, Any]:
    """Those options of a command that were given: one that was left out is None."""
    return {name: value for name, value in options.items() if value is not None}


def _unset(names: Iterable[str]) -> dict[str, Any]:
    """These fields without a value."""
    return dict.fromkeys(names)


def _without_role_limits(old: GuildSettings) -> GuildSettings:
    return _with_roles(old, (replace(role, **_unset(OF_ROLES)) for role in old.roles))


def add_channel(channel_id: int) -> Change:
    """Add a channel or thread to those that the bot replies in."""
    return lambda old: replace(old, channels=old.channels | {channel_id})


def remove_channel(channel_id: int) -> Change:
    """Remove a channel or thread from those that the bot replies in."""
    return lambda old: replace(old, channels=old.channels - {channel_id})


def change_role(role_id: int, change: Callable[[RolePolicy], RolePolicy]) -> Change:
    """Change the policy of one role."""

    def changed(old: GuildSettings) -> GuildSettings:
        roles = {role.role_id: role for role in old.roles}
        roles[role_id] = change(roles.get(role_id, RolePolicy(role_id)))
        return _with_roles(old, roles.values())

    return changed


def set_role_limits(role_id: int, limits: Mapping[str, int]) -> Change:
    """Set these limits of a role, by the names of its fields; without any, the role has none of its own."""
    numbers: Mapping[str, Any] = limits or _unset(OF_ROLES)
    return change_role(role_id, lambda old: replace(old, **numbers))


def clear_roles(old: GuildSettings) -> GuildSettings:
    """Remove all roles from those that may chat; their quotas stay."""
    return _with_roles(old, (replace(role, allowed=False) for role in old.roles))


def _with_roles(old: GuildSettings, roles: Iterable[RolePolicy]) -> GuildSettings:
    """The settings with these roles, in the order of the database; roles of which nothing is said are dropped."""
    kept = (role for role in roles if role != RolePolicy(role.role_id))
    return replace(old, roles=tuple(sorted(kept, key=lambda role: role.role_id)))
