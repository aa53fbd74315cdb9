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


@cache
def translations() -> Mapping[str, NullTranslations]:
    """Every language that has a catalogue, by its code ("ko"), and English. Read once, when a text is first needed."""
    found: dict[str, NullTranslations] = {"en": NullTranslations()}
    for path in sorted(CATALOGUES.glob("*.po")):
        with path.open("rb") as file:
            catalogue = read_po(file, locale=path.stem, abort_invalid=True)
        compiled = io.BytesIO()
        write_mo(compiled, catalogue)
        compiled.seek(0)
        found[path.stem] = GNUTranslations(compiled)
    return MappingProxyType(found)
