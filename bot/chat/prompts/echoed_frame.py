"""Takes the line that says who speaks off the beginning of a reply: a model may write one, as it reads them. Pure.

Only there, and only that line: what a reply says later is its own business. While the first characters may still
become such a line, they are held back.
"""

from __future__ import annotations

import re

_BEGINNING = "[speaker:"
_MAX_NAME = 64
"""Characters: more than any name of a speaker has."""
_FRAME = re.compile(rf"\s*\[speaker:[^\]\n]{{0,{_MAX_NAME}}}\]", re.IGNORECASE)


class EchoedFrameFilter:
    """Passes the pieces of one reply on, without a speaker's line at its beginning."""

    def __init__(self) -> None:
        self._held = ""
        self._is_decided = False
        self._skips_space = False

    def push(self, piece: str) -> str:
        """What of the text so far can be shown now."""
        if self._is_decided:
            return self._after_frame(piece)
        self._held += piece
        if (found := _FRAME.match(self._held)) is not None:
            text, self._held = self._held[found.end() :], ""
            self._is_decided = self._skips_space = True
            return self._after_frame(text)
        if _may_become_frame(self._held):
            return ""
        return self.end()

    def end(self) -> str:
        """What is still held back: the reply is over, or does not begin with a speaker's line."""
        text, self._held, self._is_decided = self._held, "", True
        return text

    def _after_frame(self, piece: str) -> str:
        if self._skips_space:
            piece = piece.lstrip()
            self._skips_space = not piece
        return piece


def _may_become_frame(text: str) -> bool:
    begun = text.lstrip()
    if len(begun) <= len(_BEGINNING):
        return _BEGINNING.startswith(begun.lower())
    name = begun[len(_BEGINNING) :]
    return begun.lower().startswith(_BEGINNING) and "\n" not in name and "]" not in name and len(name) <= _MAX_NAME
