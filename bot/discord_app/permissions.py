"""Who may do what: the one authorisation function, and the one door that every interaction passes.

Commands, buttons and modals all come through here, before anything is acknowledged, so that a refusal is private.
Nothing here waits: an acknowledgement has three seconds, and no database promises that. A guild's own rules are
enforced here as far as they are in memory, which they are while the guild is talked in; when they are not, the command
asks `authorise` again after it has acknowledged and read them, and the refusal takes the waiting message back.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Collection

from bot.discord_app.context import Interaction, place_of, roles_of
from bot.errors import BotError, ShuttingDown
from bot.guilds.settings_cache import GuildSettingsCache
from models.types import DIRECT_MESSAGES, GuildSettings

_SEEN = 10_000


class Action(enum.Enum):
    """What somebody wants to do, however they say it. The value is the first word of the command or custom id."""

    CHAT = "chat"
    REGENERATE = "regenerate"
    STOP = "stop"
    RESET = "reset"
    HISTORY = "history"
    GUILD_PERSONA = "persona"
    OWN_PERSONA = "me"
    CONFIG = "config"
    PRIVACY = "privacy"
    HELP = "help"


_IN_GUILDS_ONLY = frozenset({Action.GUILD_PERSONA, Action.CONFIG})
_FOR_MANAGERS = frozenset({Action.GUILD_PERSONA, Action.CONFIG})
_AS_THE_GUILD_ALLOWS = frozenset({Action.CHAT, Action.REGENERATE})  # one's own data is in one's own hands everywhere
_NAMED = 10  # channels or roles in a refusal


class NotAllowed(BotError):
    """Refused for who is asking, or where."""


def authorise(interaction: Interaction, action: Action, chosen: GuildSettings | None) -> None:
    """Raise NotAllowed unless this person may do this here. `chosen`: the guild's rules, None if not known yet.

    Discord hides what one may not use, but an admin may override that and a modified client ignores it. The
    permissions are those of this interaction's own guild: none carries over to another one or to direct messages.
    """
    if action in _IN_GUILDS_ONLY and interaction.guild_id is None:
        raise NotAllowed("This works in a guild only, not in direct messages.")
    allowed = interaction.permissions
    if action in _FOR_MANAGERS and not (allowed.manage_guild or allowed.administrator):
        raise NotAllowed("Only members with the Manage Server permission may do this.")
    if action in _AS_THE_GUILD_ALLOWS and chosen is not None:
        _check_place(interaction, chosen)
        _check_roles(interaction, chosen)


def _check_place(interaction: Interaction, chosen: GuildSettings) -> None:
    """A thread is allowed with its channel, or by itself."""
    if chosen.channels and not chosen.channels & set(place_of(interaction)):
        raise NotAllowed(f"I do not chat in this channel. Ask me in {_listed('<#{}>', chosen.channels)}.")


def _check_roles(interaction: Interaction, chosen: GuildSettings) -> None:
    allowed = {role.role_id for role in chosen.roles if role.allowed}
    if allowed and not allowed & roles_of(interaction):
        raise NotAllowed(f"Here I chat only with members who have the role {_listed('<@&{}>', allowed)}.")


def _listed(pattern: str, ids: Collection[int]) -> str:
    named = [pattern.format(each) for each in sorted(ids)[:_NAMED]]
    more = len(ids) - len(named)
    return " or ".join(named) + (f" ({more} more)" if more else "")


class PermissionGate:
    """Lets each interaction in once, while the bot is open, if the person may do it."""

    def __init__(self, guilds: GuildSettingsCache) -> None:
        self.closed = False
        self._guilds = guilds
        self._seen: OrderedDict[int, None] = OrderedDict()

    def is_repeat(self, interaction: Interaction) -> bool:
        """Whether this interaction came before: a RESUME may replay what was served already."""
        if interaction.id in self._seen:
            return True
        self._seen[interaction.id] = None
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return False

    def check(self, interaction: Interaction, action: Action) -> None:
        if self.closed:
            raise ShuttingDown()
        authorise(interaction, action, self._guilds.known(interaction.guild_id or DIRECT_MESSAGES))
