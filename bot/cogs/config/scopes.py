"""The scopes of dialogs as /config offers and describes them. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from discord import app_commands

from bot.errors import BotError
from bot.guilds.settings.settings_cache import Change
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.types import DialogScope, GuildSettings

SCOPE_CHANGED = N_("Conversations of the scope before are kept: going back to it finds them again.")
SHARED = N_("What members said to me on their own before stays theirs: nobody finds it in a shared conversation.")
SCOPES: Mapping[DialogScope, str] = {
    "member": N_("each member has one conversation in the whole guild"),
    "channel": N_("shared: all members in a channel have one conversation, its threads included"),
    "thread": N_("shared: all members in a channel have one conversation, and another one in each thread"),
    "member-channel": N_("each member has one conversation in each channel, its threads included"),
    "member-thread": N_("each member has one conversation in each channel, and another one in each thread"),
}
CHOICES = [app_commands.Choice(name=f"{scope} – {text}"[:100], value=scope) for scope, text in SCOPES.items()]
_OLD_NAMES: Mapping[str, DialogScope] = {"user": "member"}


def scope_named(name: str | None) -> DialogScope | None:
    """The scope that a member chose; None for none. Raises BotError for a name that does not exist."""
    if name is None:
        return None
    found = _OLD_NAMES.get(name) or next((scope for scope in SCOPES if scope == name), None)
    if found is None:
        scopes = ", ".join(f"`{scope}`" for scope in SCOPES)
        raise BotError(_("There is no such scope. The scopes are {scopes}.").format(scopes=scopes))
    return found


def scope_note(scope: DialogScope) -> str:
    """What becomes of earlier conversations when this scope is set."""
    return f"{_(SCOPE_CHANGED)} {_(SHARED)}" if scope in ("channel", "thread") else _(SCOPE_CHANGED)


def set_channel_scope(channel_id: int, scope: DialogScope | None) -> Change:
    """Give a channel or thread a scope of its own, or take it away."""

    def changed(old: GuildSettings) -> GuildSettings:
        scopes = dict(old.channel_scopes)
        scopes.pop(channel_id, None)
        if scope is not None:
            scopes[channel_id] = scope
        return replace(old, channel_scopes=tuple(sorted(scopes.items())))

    return changed
