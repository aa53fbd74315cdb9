"""Reads the translations: one gettext catalogue (`.po`) for each language, beside this file.

English needs none: its texts are the message ids. Knows files; does not know whose language is wanted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from gettext import GNUTranslations, NullTranslations
from pathlib import Path
from types import MappingProxyType

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

CATALOGUES = Path(__file__).parent / "catalogues"
ENGLISH = "en"


@cache
def languages() -> tuple[str, ...]:
    """The codes of all languages that have a catalogue ("ko"), and of English."""
    return (ENGLISH, *sorted(path.stem for path in CATALOGUES.glob("*.po")))


@cache
def catalogue(language: str) -> NullTranslations:
    """The translations into one of these languages. Read when its first text is needed."""
    if language == ENGLISH:
        return NullTranslations()
    with (CATALOGUES / f"{language}.po").open("rb") as file:
        read = read_po(file, locale=language, abort_invalid=True)
    compiled = io.BytesIO()
    write_mo(compiled, read)
    compiled.seek(0)
    return GNUTranslations(compiled)


@cache
def translations() -> Mapping[str, NullTranslations]:
    """The translations into every language, by its code."""
    return MappingProxyType({language: catalogue(language) for language in languages()})
