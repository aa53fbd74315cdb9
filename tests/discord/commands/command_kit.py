"""What tests of commands share: whether one was refused, what a guild's settings are, and what was audited."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from models.queries import audit_log, guild_settings
from models.types import DialogKey, GuildSettings
from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Interaction


class Audited(NamedTuple):
    """One row of the audit log."""

    action: str
    actor_id: int | None
    details: Any


def refused(used: Interaction, because: str) -> bool:
    """Whether the only answer is ephemeral and says this."""
    [message] = used.messages()
    return because in message.content and message.ephemeral


async def stored(here: World, guild: Guild) -> GuildSettings:
    """What a guild chose."""
    async with here.database() as database, database.read() as session:
        return await guild_settings(session, key=DialogKey(guild.id, 0))


async def audited(here: World, guild: Guild) -> list[Audited]:
    """The newest rows of a guild's audit log, the newest first."""
    async with here.database() as database, database.read() as session:
        found = await audit_log(session, key=DialogKey(guild.id, 0), limit=20)
    return [Audited(each.action, each.actor_id, json.loads(each.details)) for each in found]
