"""Makes a file's name harmless: one short line without control characters, invisible ones or markup. Pure."""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_CHARS = 80
_SUFFIX_CHARS = 12
_MARKUP = re.compile(r"""[`*~|<>\[\](){}"\\/@#:]+""")
"""Characters with a meaning in Markdown, in a path or in a frame. `_` stays: it is in the name of every second program,
and the code that shows a name on Discord escapes it."""
_NO_NAME = "file"


def clean_name(name: str) -> str:
    """The name as it may be shown and put into a prompt: never empty, at most `MAX_NAME_CHARS`, its ending kept."""
    visible = "".join(" " if character.isspace() else character for character in name[:2000] if _is_shown(character))
    stem, dot, suffix = _MARKUP.sub("_", unicodedata.normalize("NFC", visible)).rpartition(".")
    if not stem.strip(" ._") or not 0 < len(suffix.strip()) <= _SUFFIX_CHARS:
        stem, dot, suffix = stem + dot + suffix, "", ""
    stem, suffix = " ".join(stem.split()), suffix.strip()
    if not re.search(r"\w", stem + suffix):
        return _NO_NAME
    room = MAX_NAME_CHARS - len(dot + suffix)
    if len(stem) > room:
        stem = stem[: room - 1].rstrip() + "…"
    return stem + dot + suffix


def _is_shown(character: str) -> bool:
    """No control, no bidi mark, no other format character, no surrogate, nothing private or unassigned."""
    return character.isspace() or not unicodedata.category(character).startswith("C")
