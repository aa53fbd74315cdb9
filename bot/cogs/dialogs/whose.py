"""Which dialogs a member has in a place, and which of them they may read or change.

Where all share one dialog, a member may have another one of their own: what was asked with `private`, for them alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.chat.history import HistoryReader
from bot.discord_app.caller import Caller, caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.permissions.authorise import NotAllowed, authorise_reading
from bot.i18n.language import N_
from models.types import DialogKey

SHARED, PRIVATE = N_("What everyone here shares"), N_("Our private conversation here")


@dataclass(frozen=True, slots=True)
class DialogsHere:
    """Dialogs in one place, the one that the member's words belong to first."""

    keys: tuple[DialogKey, ...]
    several: bool
    """Whether there is a shared dialog here, so that each is to be named."""

    @property
    def first(self) -> DialogKey:
        """The first of them."""
        return self.keys[0]

    @property
    def also(self) -> DialogKey | None:
        """The other one, if there is one."""
        return self.keys[1] if len(self.keys) > 1 else None


async def dialogs_here(context: CommandContext, interaction: Interaction) -> DialogsHere:
    """All dialogs of the member here, whether or not they may read or change them."""
    key = await context.current_dialog_key(interaction)
    return DialogsHere((key,) if key.private is None else (key, key.private), key.shared)


async def readable_dialogs(context: CommandContext, interaction: Interaction, reader: HistoryReader) -> DialogsHere:
    """Those that the member may read. Raises NotAllowed if that is only an empty one."""
    here = await dialogs_here(context, interaction)
    try:
        authorise_reading(caller_of(interaction), here.first)
    except NotAllowed:
        if here.also is None or not await reader.is_begun(here.also):
            raise
        return DialogsHere((here.also,), several=True)
    return here


def changeable(caller: Caller, here: DialogsHere) -> DialogsHere:
    """Those that the member may end or restore as a whole: their own, and the shared one if they manage the guild."""
    keys = tuple(key for key in here.keys if not key.shared or caller.manages_guild)
    return DialogsHere(keys, here.several)
