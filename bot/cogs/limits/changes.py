"""The changes that `/config limits` makes, as pure functions from a guild's settings to its new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bot.cogs.config.changes import change_role
from bot.guilds.settings.settings_cache import Change

Numbers = Mapping[str, Any]
"""Numbers by the fields of `GuildSettings` or `RolePolicy`; None: not given."""


def set_limits(numbers: Numbers) -> Change:
    """Set those of the guild's limits that are given."""
    given = {name: number for name, number in numbers.items() if number is not None}
    return lambda old: replace(old, **given)


def set_role_limits(role_id: int, numbers: Numbers) -> Change:
    """Set those of a role's limits that are given; without any, the role has none of its own."""
    given = {name: number for name, number in numbers.items() if number is not None}
    return change_role(role_id, lambda old: replace(old, **(given or dict.fromkeys(numbers))))
