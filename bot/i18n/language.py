"""The language of the texts that are made now, and the functions that translate into it.

An answer to a member, and a post in a channel, sets the language around it with `use_language`. It is a context
variable, so that each task has its own and texts deep below need no further argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bot.i18n.catalogues import ENGLISH, languages
from bot.i18n.translated import Translated

DEFAULT_LANGUAGE = ENGLISH
_language: ContextVar[str] = ContextVar("language", default=DEFAULT_LANGUAGE)


def supported(locale: str | None) -> str:
    """The language to use for one of Discord's locales ("ko", "en-GB"): English if there is no catalogue for it."""
    code = (locale or "").partition("-")[0]
    return code if code in languages() else DEFAULT_LANGUAGE


def current_language() -> str:
    """The code of the current language, such as "ko"."""
    return _language.get()


@contextmanager
def use_language(locale: str | None) -> Iterator[None]:
    """Make texts in the language of this locale of Discord's until the block ends."""
    token = _language.set(supported(locale))
    try:
        yield
    finally:
        _language.reset(token)


def set_language(locale: str | None) -> None:
    """The same for the rest of the current task."""
    _language.set(supported(locale))


def N_(message: str) -> str:
    """Mark a text of a constant, which is translated where it is used: `_(CONSTANT)`."""
    return message


def NP_(context: str, message: str) -> str:
    """The same for a text with a context, which `pgettext(context, CONSTANT)` translates."""
    return message


def gettext(message: str) -> str:
    """The text in the current language. Values are put in afterwards: `_("Hello {name}").format(name=name)`.

    A text that was translated before is told again in the current language, its values in it.
    """
    if isinstance(message, Translated):
        return message.told_in(_language.get())
    return Translated.of(_language.get(), message)


def ngettext(singular: str, plural: str, number: int) -> str:
    """The text for a number of things in the current language, with `{number}` still to be put in."""
    return Translated.of(_language.get(), singular, plural=plural, number=number)


def pgettext(context: str, message: str) -> str:
    """As `gettext`, for a text that means different things in different places: `context` says which."""
    return Translated.of(_language.get(), message, context=context)
