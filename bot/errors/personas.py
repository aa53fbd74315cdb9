"""Personas that a library does not have, has already, or has no room for."""

from __future__ import annotations

from bot.errors.base import BotError
from bot.i18n.language import gettext as _


class UnknownPersona(BotError):
    """The library has no persona of this name."""

    def __init__(self, name: str, command: str) -> None:
        text = _("There is no persona “{name}” here. `{command} list` shows which there are.")
        super().__init__(text.format(name=name, command=command))


class PersonaExists(BotError):
    """The library has a persona of this name, or of one that looks like it."""

    def __init__(self, name: str, command: str, *, hint: str = "") -> None:
        hint = hint or _("`{command} edit` changes it.").format(command=command)
        super().__init__(_("There is a persona “{name}” already. {hint}").format(name=name, hint=hint))


class TooManyPersonas(BotError):
    """The library is full."""

    def __init__(self, limit: int, command: str) -> None:
        text = _("There is room for {limit:,} personas. `{command} delete` makes some.")
        super().__init__(text.format(limit=limit, command=command))
