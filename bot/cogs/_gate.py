"""Who may do what: the one authorisation function, and the one door that every interaction passes.

Commands, buttons and modals all come through here, before anything is acknowledged, so that a refusal is private.
"""

from __future__ import annotations

import enum
from collections import OrderedDict

from bot.cogs._parts import Interaction
from bot.errors import BotError, ShuttingDown

_SEEN = 10_000


class Action(enum.Enum):
    """What somebody wants to do, however they say it. The value is the first word of the command or custom id."""

    CHAT = "chat"
    STOP = "stop"
    RESET = "reset"
    HISTORY = "history"
    GUILD_PERSONA = "persona"
    OWN_PERSONA = "me"
    PRIVACY = "privacy"
    HELP = "help"


_IN_GUILDS_ONLY = frozenset({Action.GUILD_PERSONA})
_FOR_MANAGERS = frozenset({Action.GUILD_PERSONA})


class NotAllowed(BotError):
    """Refused for who is asking, or where."""


def authorise(interaction: Interaction, action: Action) -> None:
    """Raise NotAllowed unless this person may do this here.

    Discord hides what one may not use, but an admin may override that and a modified client ignores it. The
    permissions are those of this interaction's own guild: none carries over to another one or to direct messages.
    """
    if action in _IN_GUILDS_ONLY and interaction.guild_id is None:
        raise NotAllowed("This works in a guild only, not in direct messages.")
    allowed = interaction.permissions
    if action in _FOR_MANAGERS and not (allowed.manage_guild or allowed.administrator):
        raise NotAllowed("Only members with the Manage Server permission may do this.")


class Gate:
    """Lets each interaction in once, while the bot is open, if the person may do it."""

    def __init__(self) -> None:
        self.closed = False
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
        authorise(interaction, action)
