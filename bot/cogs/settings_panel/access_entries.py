"""Where and for whom the bot answers, as the panel of a guild shows it: channels, roles, personas of members' own.

Which roles may do something is a flag of each role's policy, not a list. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import get_args

from bot.cogs.config.changes import RESETS, change_role
from bot.cogs.settings_panel.entries import Channels, Entry, Option, Options, Roles
from bot.cogs.settings_panel.field_entries import GuildEntry, field_entry
from bot.errors import BotError
from bot.i18n.language import gettext as _
from bot.i18n.language import pgettext
from models.types import GuildSettings, OwnPersonas, RolePolicy


def access_entries() -> Iterable[GuildEntry]:
    """Channels, roles, and who may have a persona of their own."""
    yield field_entry(
        "channels",
        "where",
        _("Channels in which I answer"),
        _("And in their threads"),
        Channels(_("all channels")),
        stored=frozenset,
    )
    yield Entry(
        "roles",
        "where",
        _("Roles that may talk to me"),
        _("Members with any of them"),
        Roles(_("everybody")),
        lambda old: frozenset(role.role_id for role in old.roles if role.allowed),
        lambda old, ids: _with_flag(old, ids, _allowed),
        lambda old: _with_flag(old, (), _allowed),
    )
    yield Entry(
        "own_personas",
        "where",
        _("Personas of members' own"),
        _("Who may have one answer them here"),
        Options(tuple(Option(who, _own_personas_words(who)) for who in get_args(OwnPersonas)), "members"),
        lambda old: old.own_personas,
        _with_own_personas,
        RESETS["own_personas"],
    )
    yield Entry(
        "persona_roles",
        "where",
        _("Roles that may have a persona of their own"),
        _("Choosing some allows it to nobody else"),
        Roles(_("none chosen")),
        lambda old: frozenset(role.role_id for role in old.roles if role.own_persona),
        _with_persona_roles,
        RESETS["own_personas"],
    )
    yield field_entry(
        "persona_locks",
        "where",
        _("Places where no member's own persona answers"),
        _("Categories, channels and threads"),
        Channels(_("none"), categories=True),
        field="locked_channels",
        stored=frozenset,
    )


def _allowed(role: RolePolicy, given: bool) -> RolePolicy:
    return replace(role, allowed=given)


def _own_persona(role: RolePolicy, given: bool) -> RolePolicy:
    return replace(role, own_persona=given)


def _with_flag(
    old: GuildSettings, ids: Iterable[int], flagged: Callable[[RolePolicy, bool], RolePolicy]
) -> GuildSettings:
    """The settings in which the roles with these ids have a flag, and no others. `flagged`: a role with it or not."""
    wanted = set(ids)
    others = {role.role_id for role in old.roles} - wanted
    for role_id in wanted:
        old = change_role(role_id, lambda role: flagged(role, True))(old)
    for role_id in others:
        old = change_role(role_id, lambda role: flagged(role, False))(old)
    return old


def _with_persona_roles(old: GuildSettings, ids: Iterable[int]) -> GuildSettings:
    wanted = tuple(ids)
    return replace(_with_flag(old, wanted, _own_persona), own_personas="roles" if wanted else "members")


def _with_own_personas(old: GuildSettings, value: OwnPersonas) -> GuildSettings:
    if value == "roles":
        if not any(role.own_persona for role in old.roles):
            raise BotError(_("Please choose the roles in the menu below; that allows it to them alone."))
        return replace(old, own_personas=value)
    return replace(_with_flag(old, (), _own_persona), own_personas=value)


def _own_personas_words(who: OwnPersonas) -> str:
    return {
        "members": pgettext("own personas", "All members"),
        "roles": pgettext("own personas", "Members with some roles"),
        "nobody": pgettext("own personas", "Nobody"),
    }[who]
