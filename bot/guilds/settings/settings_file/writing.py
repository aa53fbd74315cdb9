"""Writes a guild's settings as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from bot.guilds.settings.limits import OF_ROLES, shown_name
from bot.guilds.settings.settings_file.schema import (
    FIELDS,
    VERSION,
    Channel,
    Listed,
    Role,
    ScopedChannel,
    SettingsFile,
    to_file,
)
from models.types import GuildSettings


def as_file(
    settings: GuildSettings, *, guild_id: int, guild_name: str, name_of: Callable[[int], str], at: datetime
) -> bytes:
    """The settings as a file. `name_of`: of a channel or role; "" if it is not known."""
    plain: dict[str, Any] = {key: to_file(key, getattr(settings, field)) for key, field in FIELDS.items()}
    listed = Listed(
        **plain,
        channels=[Channel(id=str(each), name=name_of(each)) for each in sorted(settings.channels)],
        channel_scopes=[
            ScopedChannel(id=str(each), name=name_of(each), scope=scope) for each, scope in settings.channel_scopes
        ],
        persona_locks=[Channel(id=str(each), name=name_of(each)) for each in sorted(settings.locked_channels)],
        roles=[
            Role(
                id=str(role.role_id),
                name=name_of(role.role_id),
                may_chat=role.allowed,
                may_have_persona=role.own_persona,
                **{shown_name(name): getattr(role, name) for name in OF_ROLES},
            )
            for role in settings.roles
        ],
    )
    file = SettingsFile(
        guildllama_settings=VERSION,
        guild=Channel(id=str(guild_id), name=guild_name),
        exported_at=f"{at:%Y-%m-%dT%H:%M:%SZ}",
        settings=listed,
    )
    return (json.dumps(file.model_dump(), indent=2, ensure_ascii=False) + "\n").encode()
