"""Whether a member's own persona may answer, and where a message was written as far as it decides who answers.

Pure functions of a caller and the guild's settings.
"""

from __future__ import annotations

from typing import Literal

from bot.discord_app.caller import Caller
from models.types import DIRECT_MESSAGES, GuildSettings, PersonaScope

OwnBarrier = Literal["nobody", "roles", "locked"]
"""Why a member's own persona may not answer: the guild allows none, only to other roles, or not in this place."""


def own_persona_barrier(caller: Caller, guild_settings: GuildSettings) -> OwnBarrier | None:
    """Why the caller's own persona does not answer here; None if it may. The rules hold for managers too."""
    if caller.guild_id == DIRECT_MESSAGES:
        return None
    if guild_settings.own_personas == "nobody":
        return "nobody"
    allowed = {role.role_id for role in guild_settings.roles if role.own_persona}
    if guild_settings.own_personas == "roles" and not allowed & caller.role_ids:
        return "roles"
    return "locked" if guild_settings.locked_channels & caller.place_ids else None


def persona_scope(caller: Caller, guild_settings: GuildSettings, asker_id: int | None = None) -> PersonaScope:
    """Where the caller writes, as far as it decides who answers: asked at each message, so no dialog outlives a rule.

    `asker_id`: who asked, if somebody else has the reply written anew. Their roles are not known then.
    """
    if caller.guild_id == DIRECT_MESSAGES:
        return PersonaScope()
    unknown = guild_settings.own_personas == "roles" and asker_id not in (None, caller.user_id)
    return PersonaScope(
        category_id=caller.category_id,
        channel_id=caller.parent_id,
        thread_id=caller.channel_id if caller.in_thread else 0,
        own_allowed=not unknown and own_persona_barrier(caller, guild_settings) is None,
        face=guild_settings.persona_face,
        age_restricted=caller.age_restricted,
    )
