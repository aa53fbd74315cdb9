"""Lets a reply through while it is written, so that no filtered word is ever shown. Pure; one object for each reply.

The last word is held back until it is complete: "bad" may be all of it, or the beginning of "badge". What was let
through is not looked at again but for the last words, with which a phrase may go on.
"""

from __future__ import annotations

from bot.safety.words import MARKUP, MAX_WORD_CHARS, WordFilter, is_invisible, is_word_character

_HELD_AT_MOST = 2 * MAX_WORD_CHARS
"""Characters of one word that are held back; a longer one is looked at as far as it has come."""


class StreamFilter:
    """Passes on the pieces of one reply. Once a filtered word was found, nothing more comes out."""

    def __init__(self, words: WordFilter, before: str = "") -> None:
        """`before`: what stands before the reply and is shown already."""
        self._words = words
        self._held = ""
        self._context = _tail(before, words.longest_phrase)
        """The end of what was let through: as much as a phrase may begin with."""
        self.matched = False

    def restart(self) -> None:
        """Forget what came so far: it was no answer."""
        self._held = self._context = ""

    def push(self, piece: str) -> str:
        """The text that may be shown now. The rest is part of the final text only, which is judged as a whole."""
        if self.matched:
            return ""
        self._held += piece
        cut = _last_boundary(self._held)
        if cut == 0 and len(self._held) > _HELD_AT_MOST:
            cut = len(self._held) - MAX_WORD_CHARS
        ready, rest = self._held[:cut], self._held[cut:]
        if not ready:
            return ""
        if self._words.matches(self._context + ready):
            self.matched = True
            self._held = ""
            return ""
        self._held = rest
        self._context = _tail(self._context + ready, self._words.longest_phrase)
        return ready


def _last_boundary(text: str) -> int:
    """Where the last word begins that may go on; the length of the text if it ends between two words."""
    for index in range(len(text) - 1, -1, -1):
        if not _may_be_within(text[index]):
            return index + 1
    return 0


def _tail(text: str, num_words: int) -> str:
    """The end of a text with its last `num_words` words."""
    words, inside, index = 0, False, len(text)
    while index > 0:
        within = _may_be_within(text[index - 1])
        if within and not inside:
            if words == num_words:
                break
            words += 1
        inside = within
        index -= 1
    return text[max(index, len(text) - (num_words + 1) * _HELD_AT_MOST) :]


def _may_be_within(character: str) -> bool:
    return is_word_character(character) or is_invisible(character) or character in MARKUP
