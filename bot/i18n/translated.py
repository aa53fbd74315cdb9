"""A translated text that knows what it was translated from, so that somebody else can be told it in another language.

An error is made deep in the program, in the language of the task, and may be shown to one person and logged in English;
a line for a channel is made while a command is answered in its member's language. Knows catalogues and particles.
"""

from __future__ import annotations

from typing import Any

from bot.i18n.catalogues import ENGLISH, catalogue
from bot.i18n.josa import format_korean, has_particles


class Translated(str):
    """A text in one language, made from a message id of the catalogues and the values in it."""

    __slots__ = ("_context", "_language", "_message", "_number", "_plural", "_values")

    _language: str
    _message: str
    _plural: str
    _number: int
    _context: str
    _values: dict[str, Any] | None

    @classmethod
    def of(
        cls,
        language: str,
        message: str,
        *,
        plural: str = "",
        number: int = 1,
        context: str = "",
        values: dict[str, Any] | None = None,
    ) -> Translated:
        """The text in this language. `plural`: the message id for a `number` other than one; "" if there is none."""
        texts = catalogue(language)
        if plural:
            found = texts.ngettext(message, plural, number)
        elif context:
            found = texts.pgettext(context, message)
        else:
            found = texts.gettext(message)
        if values is not None:
            inner = {name: in_language(value, language) for name, value in values.items()}
            found = format_korean(found, **inner) if has_particles(found) else found.format(**inner)
        made = cls(found)
        made._message, made._plural, made._number = message, plural, number
        made._context, made._values, made._language = context, values, language
        return made

    def format(self, /, *_: object, **values: object) -> Translated:
        """The text with these values in it; placeholders have names."""
        return self._made(self._language, values)

    def told_in(self, language: str) -> Translated:
        """The same text in another language, the texts among its values too."""
        return self._made(language, self._values)

    def _made(self, language: str, values: dict[str, Any] | None) -> Translated:
        return self.of(
            language, self._message, plural=self._plural, number=self._number, context=self._context, values=values
        )


def in_language(value: Any, language: str) -> Any:
    """A value as it is told in this language: another one only if it is a translated text."""
    return value.told_in(language) if isinstance(value, Translated) else value


def english(text: str) -> str:
    """The text in English, for the log: a text that was not translated stays as it is."""
    return str(in_language(text, ENGLISH))
