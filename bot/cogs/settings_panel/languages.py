"""The languages that can be chosen: those that have translations. Pure functions."""

from __future__ import annotations

from babel import Locale
from discord.app_commands import Choice

from bot.cogs.settings_panel.entries import Option
from bot.errors import BotError
from bot.i18n.catalogues import translations
from bot.i18n.language import gettext as _

AUTO = "auto"


def _own_name(code: str) -> str:
    return (Locale(code).display_name or code).capitalize()


LANGUAGES = [
    Choice(name="Automatic", value=AUTO),
    *(Choice(name=_own_name(code), value=code) for code in sorted(translations())),
]
"""For the options of commands."""


def language_options(auto_about: str) -> tuple[Option, ...]:
    """Automatic, and each language under its own name."""
    named = (Option(code, _own_name(code)) for code in sorted(translations()))
    return (Option(AUTO, _("Automatic"), auto_about), *named)


def language_named(code: str) -> str | None:
    """The language to store: None for the automatic one. Raises BotError for one that has no translations."""
    if code == AUTO:
        return None
    if code not in translations():
        raise BotError(_("I do not speak this language."))
    return code
