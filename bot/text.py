"""Text as both databases and UTF-8 can hold it, and times in words. Pure functions."""

from __future__ import annotations

import re
from datetime import timedelta

from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext

BYTES_PER_TOKEN = 3
"""Of UTF-8, for estimates: a token of English has more, one of Korean or of code about three."""
# Postgres refuses NUL in a text and SQLite does not; a lone surrogate cannot be encoded in UTF-8.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Remove characters that cannot be stored, and surrounding white space, from what a person wrote.

    The caller refuses a person's NUL characters first (`has_nul`): silently changed text is not what they wrote.
    """
    return clean_piece(text).strip()


def clean_piece(text: str) -> str:
    """Remove characters that cannot be stored from a piece of a reply, whose surrounding white space matters."""
    return _UNSTORABLE.sub("", text)


def has_nul(text: str) -> bool:
    """Whether the text contains a NUL character."""
    return "\x00" in text


def thought_for(seconds: float | None) -> str:
    """How long a model thought: "thought for 12 s", "thought for 2 min 5 s"; "" for less than a second or None."""
    if seconds is None or seconds < 1:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes:
        return _("thought for {minutes} min {seconds} s").format(minutes=minutes, seconds=rest)
    return _("thought for {seconds} s").format(seconds=rest)


def duration_text(duration: timedelta) -> str:
    """A duration in the largest unit that says it exactly: "7 days", "36 hours", "10 minutes", "90 seconds"."""
    seconds = round(duration.total_seconds())
    if seconds % 86_400 == 0:
        return ngettext("{number} day", "{number} days", seconds // 86_400).format(number=seconds // 86_400)
    if seconds % 3600 == 0:
        return ngettext("{number} hour", "{number} hours", seconds // 3600).format(number=seconds // 3600)
    if seconds % 60 == 0:
        return ngettext("{number} minute", "{number} minutes", seconds // 60).format(number=seconds // 60)
    return ngettext("{number} second", "{number} seconds", seconds).format(number=seconds)
