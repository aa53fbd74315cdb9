"""Finds a guild's filtered words in a text, in time linear in the text. Pure functions; no regular expressions.

A filtered word is one or several words; `*` in it stands for any letters, also none. It is compared as a reader sees
it: NFKC, without regard to case, without what is not visible. A word of the text is a run of letters, digits and marks.
Discord's marks for bold and the like may stand within a word or between two: both readings are looked at.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_WORDS = 200
MAX_WORD_CHARS = 100
MAX_PARTS = 8
"""Words in one filtered phrase."""
_SEPARATORS = str.maketrans(";\n", ",,")
MARKUP = frozenset("*_~|`\\")
"""Discord's marks for bold and the like, of which a reader sees nothing."""
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u034f\u2800\u17b4\u17b5\u180b\u180c\u180d\u180f")
"""Show nothing, although Unicode does not say so by their category."""

Glob = tuple[str, ...]
"""A word, cut where it has a `*`: one part means an exact word."""


def fold(text: str) -> str:
    """A text as it is compared."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def is_invisible(character: str) -> bool:
    """Whether a reader sees nothing of it, so that it may stand within a word unseen."""
    return (
        (unicodedata.category(character) in ("Cf", "Cc", "Cs") and not character.isspace())
        or character in _BLANK
        or 0xFE00 <= ord(character) <= 0xFE0F
        or 0xE0100 <= ord(character) <= 0xE01EF
    )


def is_word_character(character: str) -> bool:
    """Whether it belongs to a word."""
    return unicodedata.category(character)[0] in "LMN"


def words_of(text: str, *, within_markup: bool) -> list[str]:
    """The words of a text, folded. `within_markup`: whether marks of bold and the like leave a word whole."""
    words: list[str] = []
    current: list[str] = []
    for character in fold(text):
        if is_word_character(character):
            if not is_invisible(character):
                current.append(character)
        elif not is_invisible(character) and not (within_markup and character in MARKUP):
            if current:
                words.append("".join(current))
            current = []
    if current:
        words.append("".join(current))
    return words


def clean_word(text: str) -> str:
    """A filtered word as it is kept and shown: folded, with single spaces; "" for one with no letter.

    Everything but words and `*` is dropped.
    """
    parts = []
    for part in fold(text).split():
        kept = "".join(each for each in part if each == "*" or (is_word_character(each) and not is_invisible(each)))
        while "**" in kept:
            kept = kept.replace("**", "*")
        if kept.strip("*"):
            parts.append(kept)
    return " ".join(parts)


def listed_words(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The filtered words of a list with commas between, as they are kept; and what of it cannot be one."""
    given = [(each, clean_word(each)) for each in text.translate(_SEPARATORS).split(",") if each.strip()]
    usable = tuple(word for _given, word in given if _is_usable(word))
    return usable, tuple(each for each, word in given if not _is_usable(word))


def _is_usable(word: str) -> bool:
    return bool(word) and len(word) <= MAX_WORD_CHARS and len(word.split()) <= MAX_PARTS


@dataclass(frozen=True, slots=True)
class WordFilter:
    """Filtered words, ready to be looked for."""

    exact: frozenset[str]
    globs: tuple[Glob, ...]
    phrases: tuple[tuple[Glob, ...], ...]

    @classmethod
    def of(cls, words: Iterable[str]) -> WordFilter:
        """Of words as `clean_word` leaves them."""
        split = [tuple(tuple(part.split("*")) for part in word.split()) for word in words]
        single = [each[0] for each in split if len(each) == 1]
        return cls(
            frozenset(each[0] for each in single if len(each) == 1),
            tuple(each for each in single if len(each) > 1),
            tuple(each for each in split if len(each) > 1),
        )

    @property
    def longest_phrase(self) -> int:
        """The most words of one phrase; 1 without phrases."""
        return max((len(phrase) for phrase in self.phrases), default=1)

    def matches(self, text: str) -> bool:
        """Whether one of them stands in the text."""
        return any(self.matches_words(words_of(text, within_markup=within)) for within in (False, True))

    def matches_words(self, words: Sequence[str]) -> bool:
        """The same for words as `words_of` gives them."""
        for index, word in enumerate(words):
            if word in self.exact or any(_is_like(word, glob) for glob in self.globs):
                return True
            for phrase in self.phrases:
                follows = words[index : index + len(phrase)]
                if len(follows) == len(phrase) and all(map(_is_like, follows, phrase)):
                    return True
        return False


def _is_like(word: str, glob: Glob) -> bool:
    """Whether a word is like this: each part is looked for once, after the one before it."""
    first, last = glob[0], glob[-1]
    if len(glob) == 1:
        return word == first
    if len(word) < len(first) + len(last) or not word.startswith(first) or not word.endswith(last):
        return False
    position, end = len(first), len(word) - len(last)
    for part in glob[1:-1]:
        found = word.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
