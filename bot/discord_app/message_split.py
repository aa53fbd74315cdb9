"""Cuts a Markdown reply into messages that Discord accepts, each of which shows its code blocks whole.

Knows CommonMark's fences and Discord's limit, counted in UTF-16 units as the strictest reader would. Knows nothing of
Discord's API, of streaming or of where the text comes from. Pure: the same text always gives the same chunks, and the
bodies of the chunks joined together are exactly the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LIMIT = 2000

_FENCE = re.compile(r" {0,3}(?P<marker>`{3,}|~{3,})(?P<info>[^\n]*)")
_LONGEST_MARKER = 40  # a longer run is decoration; repeated at both ends of each chunk it would leave no room
_LONGEST_INFO = 40
_TRIES = 400


@dataclass(frozen=True, slots=True)
class Fence:
    """An open code block: what opened it, and what must be written to open it again in the next chunk."""

    marker: str
    language: str

    @property
    def opening(self) -> str:
        return f"{self.marker}{self.language}\n"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of the reply, with the glue that closes and re-opens a code block which the cut went through."""

    opening: str
    body: str
    closing: str

    @property
    def text(self) -> str:
        return self.opening + self.body + self.closing


def utf16_length(text: str) -> int:
    """The length of a text in UTF-16 code units."""
    return len(text) + sum(character > "\uffff" for character in text)


def split_message(text: str, limit: int = LIMIT) -> tuple[Chunk, ...]:
    """Cut `text` into chunks of at most `limit` units, at a paragraph, a line or a space where there is one."""
    if limit < 8 * _LONGEST_MARKER:
        raise ValueError(f"a limit of {limit} leaves no room for code fences")
    chunks: list[Chunk] = []
    position, fence = 0, None
    while position < len(text):
        chunk, fence = _take(text, position, fence, limit)
        chunks.append(chunk)
        position += len(chunk.body)
    return tuple(chunks)


def _take(text: str, start: int, fence: Fence | None, limit: int) -> tuple[Chunk, Fence | None]:
    opening = fence.opening if fence else ""
    room = limit - utf16_length(opening)
    last = end = _furthest(text, start, room)
    for end in _cuts(text, start, last):
        after = _state_at(text, start, end, fence)
        if after is _UNSAFE or (after and end < len(text) and _leaves_empty_block(text, start, end)):
            continue
        chunk = Chunk(opening, text[start:end], _closing(text[start:end], after))
        if utf16_length(chunk.text) <= limit:
            return chunk, after
    # No clean cut anywhere (a wall of fence characters): cut where it still fits and go on.
    end = last
    while end > start + 1 and utf16_length(text[start:end]) + _LONGEST_MARKER + 1 > room:
        end -= 1
    after = _scan(text[start:end], fence)
    return Chunk(opening, text[start:end], _closing(text[start:end], after)), after


def _furthest(text: str, start: int, room: int) -> int:
    """The largest end for which text[start:end] has at most `room` units."""
    end = min(len(text), start + room)
    while utf16_length(text[start:end]) > room:
        end -= max(1, (utf16_length(text[start:end]) - room) // 2)
    return end


def _cuts(text: str, start: int, last: int) -> Iterator[int]:
    """Ends worth trying, best first. Close to `last` comes first within each kind."""
    if last == len(text):
        yield last
    window = last - start
    for separator, earliest in (("\n\n", start + window // 2), ("\n", start + window // 3), (" ", start + window // 2)):
        cut = last
        for _ in range(_TRIES // 8):
            cut = text.rfind(separator, earliest, cut)
            if cut <= start:
                break
            yield cut + len(separator)
    for cut in range(last, max(start, last - _TRIES), -1):
        if not _joins(text, cut):
            yield cut
    yield from range(last, max(start, last - _TRIES), -1)


def _leaves_empty_block(text: str, start: int, cut: int) -> bool:
    """Whether a cut inside a code block comes right after its first line or right before its last one."""
    if text[cut - 1] != "\n":
        return False
    before = text[max(start, text.rfind("\n", start, cut - 1) + 1) : cut - 1]
    following = text[cut:].partition("\n")[0]
    closes = _FENCE.match(following) and not following.strip(" \t`~")
    return bool(closes or _FENCE.match(before))


def _joins(text: str, cut: int) -> bool:
    """Whether the character after the cut belongs to the one before: a joiner, a modifier, a combining mark."""
    if cut >= len(text):
        return False
    after, before = text[cut], text[cut - 1]
    combining = "\u0300" <= after <= "\u036f" or "\ufe00" <= after <= "\ufe0f" or "\U0001f3fb" <= after <= "\U0001f3ff"
    return combining or "\u200d" in (after, before)


class _Unsafe(Fence):
    """The mark of a cut that would make or unmake a fence."""


_UNSAFE = _Unsafe("", "")


def _state_at(text: str, start: int, cut: int, fence: Fence | None) -> Fence | None:
    """The open fence at `cut`, or _UNSAFE when cutting inside this line would change what its two halves mean."""
    after = _scan(text[start:cut], fence)
    if cut == len(text) or text[cut - 1] == "\n":
        return after
    line_start = max(start, text.rfind("\n", start, cut) + 1)
    line_end = text.find("\n", cut)
    line_end = len(text) if line_end < 0 else line_end
    before = _scan(text[start:line_start], fence)
    whole = _step(before, text[line_start:line_end])
    rest = _step(after, text[cut:line_end])
    return after if _marker(after) == _marker(whole) == _marker(rest) else _UNSAFE


def _marker(fence: Fence | None) -> str:
    return fence.marker if fence else ""


def _scan(body: str, fence: Fence | None) -> Fence | None:
    for line in body.split("\n"):
        fence = _step(fence, line)
    return fence


def _step(fence: Fence | None, line: str) -> Fence | None:
    """The open fence after one more line, by CommonMark's rules for fenced code blocks."""
    found = _FENCE.match(line)
    if not found or len(found["marker"]) > _LONGEST_MARKER:
        return fence
    marker, info = found["marker"], found["info"]
    if fence:
        closes = marker[0] == fence.marker[0] and len(marker) >= len(fence.marker) and not info.strip(" \t")
        return None if closes else fence
    if marker[0] == "`" and "`" in info:
        return None  # inline code, not a fence
    words = info.split()
    language = words[0] if words and utf16_length(words[0]) <= _LONGEST_INFO else ""
    return Fence(marker, language)


def _closing(body: str, fence: Fence | None) -> str:
    if not fence:
        return ""
    return fence.marker if body.endswith("\n") else f"\n{fence.marker}"
