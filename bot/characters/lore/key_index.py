"""Finds which of many thousand keys a text contains, faster than by looking for each of them. Pure.

A key is looked for only if its first letters are in the text at all, and so few are. Text and keys are compared in one
Unicode form and without case. The work for one text is bounded, also where all keys begin alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_BEGINNINGS = (5, 3, 2, 1)
"""Letters that a key is sorted by: as many of these as it has."""
MAX_WORK = 24_000_000
"""Characters that are looked at for one text; some 20 ms."""


def folded(text: str) -> str:
    """The text as keys are compared: composed, and without case."""
    return unicodedata.normalize("NFC", text).casefold()


class KeyIndex:
    """The keys of one lorebook, each already `folded`."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._buckets: dict[int, dict[str, list[str]]] = {length: {} for length in _BEGINNINGS}
        for key in dict.fromkeys(keys):
            length = next(length for length in _BEGINNINGS if length <= len(key))
            self._buckets[length].setdefault(key[:length], []).append(key)

    def present(self, text: str) -> set[str]:
        """Those that this text, which is `folded`, contains."""
        found: set[str] = set()
        work = MAX_WORK
        for length, bucket in self._buckets.items():
            if not bucket or len(text) < length:
                continue
            beginnings = {text[start : start + length] for start in range(len(text) - length + 1)}
            work -= len(text)
            for beginning, keys in bucket.items():
                if beginning not in beginnings:
                    continue
                for key in keys:
                    if len(key) == length:
                        found.add(key)
                    elif work > 0:
                        work -= len(text)
                        if key in text:
                            found.add(key)
        return found
