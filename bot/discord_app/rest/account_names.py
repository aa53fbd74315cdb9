"""What Discord takes as the name of an account or a webhook, made of a persona's name. Pure functions."""

from __future__ import annotations

import re
import unicodedata

MAX_NICK, MAX_WEBHOOK_NAME = 32, 80
"""In UTF-16 units."""
_FORBIDDEN = re.compile(r"discord|clyde|```|[@#:]", re.IGNORECASE)
"""What Discord takes in no name of an account."""
_RESERVED = frozenset({"everyone", "here", "system message"})
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that count as letters or marks and show nothing."""
_HIDDEN = frozenset({"Cf", "Cn", "Co", "Cs"})
"""Formats, private and unassigned characters. Control characters are white space here, as line breaks are."""


def nickname(name: str) -> str | None:
    """The name of a persona as Discord takes it for the bot's account; None if nothing of it is left."""
    return _accepted(name, MAX_NICK)


def webhook_name(name: str) -> str | None:
    """The same as the name of a webhook's message, without what cannot be seen; None if nothing of it is left."""
    return _accepted(visible(name), MAX_WEBHOOK_NAME)


def visible(name: str) -> str:
    """A name without characters that cannot be seen; "" if it has no others."""
    return "".join(char for char in name if char not in _INVISIBLE and unicodedata.category(char) not in _HIDDEN)


def _accepted(name: str, max_length: int) -> str | None:
    kept = _FORBIDDEN.sub(" ", name)  # no new one can come about, as a space is left in its place
    kept = " ".join("".join(" " if unicodedata.category(char) == "Cc" else char for char in kept).split())
    while len(kept.encode("utf-16-le")) // 2 > max_length:
        kept = kept[:-1].rstrip()
    return None if not kept or kept.casefold() in _RESERVED else kept
