"""Strips a "[speaker: …]" line from the beginning of a reply: a model may copy the form of its prompt. Pure.

Later lines of this form are left alone. The first characters are held back while they may still become such a line.
"""

from __future__ import annotations

import re

_BEGINNING = "[speaker:"
_MAX_NAME = 64
"""Characters; no speaker's name is longer."""
_FRAME = re.compile(rf"\s*\[speaker:[^\]\n]{{0,{_MAX_NAME}}}\]", re.IGNORECASE)


class EchoedFrameFilter:
    """Passes the pieces of one reply on, without a speaker's line at its beginning."""

    def __init__(self) -> None:
        self._held = ""
        self._is_decided = False
        self._skips_space = False

    def push(self, piece: str) -> str:
        """Take a piece of the reply; return the text that can be shown now."""
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
        """Return the text that is still held back. For the end of a reply."""
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
