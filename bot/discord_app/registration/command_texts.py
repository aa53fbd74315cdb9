"""What commands are called and described as in each language, for Discord's clients.

Names of commands and options stay English: members tell them to each other, and texts name them. Descriptions, the
names of choices and the entries in the menu of a message are translated, with the context COMMAND in the catalogues.
"""

from __future__ import annotations

from discord import Locale
from discord.app_commands import (
    ContextMenu,
    TranslationContextLocation,
    TranslationContextTypes,
    Translator,
    locale_str,
)

from bot.i18n.catalogues import translations

COMMAND = "command"
"""The context of these texts in the catalogues."""
_STAY = (
    TranslationContextLocation.group_name,
    TranslationContextLocation.command_name,
    TranslationContextLocation.parameter_name,
)


class CommandTexts(Translator):
    """Translates for discord.py, which asks for each text and each of Discord's locales."""

    async def translate(self, string: locale_str, locale: Locale, context: TranslationContextTypes) -> str | None:
        """The text for this locale; None where it stays English."""
        if context.location in _STAY and not isinstance(context.data, ContextMenu):
            return None
        catalogue = translations().get(str(locale))
        if catalogue is None:
            return None
        text = catalogue.pgettext(COMMAND, string.message)
        return None if text == string.message else text
