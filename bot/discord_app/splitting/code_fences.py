"""CommonMark's fenced code blocks: which one is open after some lines, and how to close and reopen it.

Knows the fence rules of CommonMark 0.31, section 4.5. Knows nothing of message limits or of Discord. Pure functions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_MARKER_LENGTH = 40
"""A longer run is treated as decoration: repeated at both ends of each chunk, it would leave no room for text."""
_MAX_LANGUAGE_UNITS = 40
_FENCE = re.compile(r" {0,3}(?P<marker>`{3,}|~{3,})(?P<info>[^\n]*)")


@dataclass(frozen=True, slots=True)
class Fence:
    """An open code block: its opening marker (``` or ~~~, at least three characters) and its language, "" if none."""

    marker: str
    language: str

    @property
    def opening(self) -> str:
        """The line that opens this block again in the next chunk."""
        return f"{self.marker}{self.language}\n"

    def closing(self, body: str) -> str:
        """The text that closes this block after `body`."""
        return self.marker if body.endswith("\n") else f"\n{self.marker}"


def utf16_length(text: str) -> int:
    """The length of a text in UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def fence_after(text: str, fence: Fence | None) -> Fence | None:
    """The fence open after all lines of `text`, given the one open before it."""
    for line in text.split("\n"):
        fence = fence_after_line(line, fence)
    return fence


def fence_after_line(line: str, fence: Fence | None) -> Fence | None:
    """The fence open after one more line, given the one open before it."""
    found = _FENCE.match(line)
    if not found or len(found["marker"]) > MAX_MARKER_LENGTH:
        return fence
    marker, info = found["marker"], found["info"]
    if fence:
        closes = marker[0] == fence.marker[0] and len(marker) >= len(fence.marker) and not info.strip(" \t")
        return None if closes else fence
    if marker[0] == "`" and "`" in info:
        return None  # inline code, not a fence
    words = info.split()
    language = words[0] if words and utf16_length(words[0]) <= _MAX_LANGUAGE_UNITS else ""
    return Fence(marker, language)


def is_fence_line(line: str) -> bool:
    """Whether this line looks like a fence, opening or closing."""
    return _FENCE.match(line) is not None


def is_closing_line(line: str) -> bool:
    """Whether this line holds a fence marker alone, as a closing fence does."""
    return is_fence_line(line) and not line.strip(" \t`~")
