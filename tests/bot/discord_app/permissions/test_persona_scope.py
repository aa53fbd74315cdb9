"""Whether a member's own persona may answer: by the guild's rule, the member's roles and the place, at each message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.discord_app.caller import Caller
from bot.discord_app.permissions.actions import Action, action_word
from bot.discord_app.permissions.authorise import NotAllowed, authorise
from bot.discord_app.permissions.own_persona import own_persona_barrier, persona_scope
from models.types import NO_PLACE, GuildSettings, PersonaScope, RolePolicy

MEMBER = Caller(7, 1, 6, 5, "ann", category_id=4, role_ids=frozenset({1, 30}))
IN_CHANNEL = replace(MEMBER, channel_id=5)
MANAGER = replace(MEMBER, manages_guild=True)
ROLES = GuildSettings(own_personas="roles", roles=(RolePolicy(30, own_persona=True), RolePolicy(31, allowed=True)))


@pytest.mark.parametrize(
    ("caller", "settings", "barrier"),
    [
        (MEMBER, GuildSettings(), None),
        (MEMBER, GuildSettings(own_personas="nobody"), "nobody"),
        (MANAGER, GuildSettings(own_personas="nobody"), "nobody"),
        (MEMBER, ROLES, None),
        (replace(MEMBER, role_ids=frozenset({1, 31})), ROLES, "roles"),
        (MEMBER, replace(ROLES, locked_channels=frozenset({6})), "locked"),
        (MEMBER, GuildSettings(locked_channels=frozenset({6})), "locked"),
        (MEMBER, GuildSettings(locked_channels=frozenset({5})), "locked"),
        (MEMBER, GuildSettings(locked_channels=frozenset({4})), "locked"),
        (IN_CHANNEL, GuildSettings(locked_channels=frozenset({6})), None),
        (MEMBER, GuildSettings(locked_channels=frozenset({9})), None),
        (replace(MEMBER, guild_id=0), GuildSettings(own_personas="nobody"), None),
    ],
)
def test_barriers(caller: Caller, settings: GuildSettings, barrier: str | None) -> None:
    assert own_persona_barrier(caller, settings) == barrier
    assert persona_scope(caller, settings).own_allowed == (barrier is None)


def test_places() -> None:
    assert persona_scope(MEMBER, GuildSettings()) == PersonaScope(category_id=4, channel_id=5, thread_id=6)
    assert persona_scope(IN_CHANNEL, GuildSettings()) == PersonaScope(category_id=4, channel_id=5)
    assert persona_scope(replace(MEMBER, guild_id=0), ROLES) == NO_PLACE


def test_the_roles_of_someone_else_are_not_known() -> None:
    """A manager has the reply to another member's message written anew."""
    assert persona_scope(MANAGER, ROLES, 7).own_allowed
    assert not persona_scope(MANAGER, ROLES, 8).own_allowed
    assert persona_scope(MANAGER, GuildSettings(), 8).own_allowed


@pytest.mark.parametrize(
    ("command", "subcommand", "action"),
    [
        ("persona", "show", Action.READ_PERSONAS),
        ("persona", "list", Action.READ_PERSONAS),
        ("persona", "set", Action.GUILD_PERSONA),
        ("persona", "", Action.GUILD_PERSONA),
        ("persona", "shower", Action.GUILD_PERSONA),
        ("config", "show", Action.CONFIG),
        ("me", "", Action.OWN_PERSONA),
    ],
)
def test_only_reading_is_for_everyone(command: str, subcommand: str, action: Action) -> None:
    assert Action(action_word(command, subcommand)) is action
    managed = action in (Action.GUILD_PERSONA, Action.CONFIG)
    if managed:
        with pytest.raises(NotAllowed, match="Manage Server"):
            authorise(MEMBER, action, GuildSettings())
    else:
        authorise(MEMBER, action, GuildSettings())
    authorise(MANAGER, action, GuildSettings())
