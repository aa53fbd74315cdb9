"""Splits a Markdown reply into messages that Discord accepts, without leaving a code block open in any of them.

Knows Discord's message limit, which it counts in UTF-16 code units, the strictest reading. Knows nothing of Discord's
API, of streaming or of where the text comes from. Pure: the same text always gives the same chunks, and the bodies of
the chunks joined together are exactly the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bot.discord_app.splitting.code_fences import (
    MAX_MARKER_LENGTH,
    Fence,
    fence_after,
    fence_after_line,
    is_closing_line,
    is_fence_line,
    utf16_length,
)

MESSAGE_LIMIT = 2000
"""The longest content that Discord takes in one message."""
_MAX_TRIES = 400  # cut positions tried per chunk, so that a pathological text costs bounded time


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of the reply (`body`), with the lines that reopen and close a code block that the cut goes through."""

    opening: str
    body: str
    closing: str

    @property
    def text(self) -> str:
        """The content of the message."""
        return self.opening + self.body + self.closing


def split_message(text: str, limit: int = MESSAGE_LIMIT) -> tuple[Chunk, ...]:
    """Split `text` into chunks of at most `limit` UTF-16 units, at a paragraph, a line or a space where possible.

    Raises ValueError for a limit too small to hold a code fence at both ends.
    """
    if limit < 8 * MAX_MARKER_LENGTH:
        raise ValueError(f"a limit of {limit} leaves no room for code fences")
    chunks: list[Chunk] = []
    position, fence = 0, None
    while position < len(text):
        chunk, fence = _next_chunk(text, position, fence, limit)
        chunks.append(chunk)
        position += len(chunk.body)
    return tuple(chunks)


def _next_chunk(text: str, start: int, fence: Fence | None, limit: int) -> tuple[Chunk, Fence | None]:
    """The chunk that starts at `start` inside `fence`, and the fence open at its end."""
    opening = fence.opening if fence else ""
    room = limit - utf16_length(opening)
    last = _last_end(text, start, room)
    for end in _candidate_ends(text, start, last):
        after = _fence_at(text, start, end, fence)
        if after is _UNSAFE or (after and end < len(text) and _leaves_empty_block(text, start, end)):
            continue
        chunk = _chunk(opening, text[start:end], after)
        if utf16_length(chunk.text) <= limit:
            return chunk, after
    # No clean cut anywhere (for example a wall of fence characters): cut at the last position that still fits.
    end = last
    while end > start + 1 and utf16_length(text[start:end]) + MAX_MARKER_LENGTH + 1 > room:
        end -= 1
    after = fence_after(text[start:end], fence)
    return _chunk(opening, text[start:end], after), after


def _chunk(opening: str, body: str, after: Fence | None) -> Chunk:
    return Chunk(opening, body, after.closing(body) if after else "")


def _last_end(text: str, start: int, room: int) -> int:
    """The largest end for which text[start:end] has at most `room` UTF-16 units."""
    end = min(len(text), start + room)
    while utf16_length(text[start:end]) > room:
        end -= max(1, (utf16_length(text[start:end]) - room) // 2)
    return end


def _candidate_ends(text: str, start: int, last: int) -> Iterator[int]:
    """Cut positions worth trying, best kind first (paragraph, line, space, anywhere), the latest first in each kind."""
    if last == len(text):
        yield last
    window = last - start
    for separator, earliest in (("\n\n", start + window // 2), ("\n", start + window // 3), (" ", start + window // 2)):
        end = last
        for _ in range(_MAX_TRIES // 8):
            end = text.rfind(separator, earliest, end)
            if end <= start:
                break
            yield end + len(separator)
    for end in range(last, max(start, last - _MAX_TRIES), -1):
        if not _splits_character(text, end):
            yield end
    yield from range(last, max(start, last - _MAX_TRIES), -1)


def _leaves_empty_block(text: str, start: int, end: int) -> bool:
    """Whether a cut inside a code block comes right after its opening line or right before its closing one."""
    if text[end - 1] != "\n":
        return False
    before = text[max(start, text.rfind("\n", start, end - 1) + 1) : end - 1]
    following = text[end:].partition("\n")[0]
    return is_closing_line(following) or is_fence_line(before)


def _splits_character(text: str, end: int) -> bool:
    """Whether a cut at `end` separates a joiner, modifier or combining mark from the character it belongs to."""
    if end >= len(text):
        return False
    after, before = text[end], text[end - 1]
    combining = "\u0300" <= after <= "\u036f" or "\ufe00" <= after <= "\ufe0f" or "\U0001f3fb" <= after <= "\U0001f3ff"
    return combining or "\u200d" in (after, before)


class _UnsafeCut(Fence):
    """Marks a cut inside a line that would create or destroy a fence."""


_UNSAFE = _UnsafeCut("", "")


def _fence_at(text: str, start: int, end: int, fence: Fence | None) -> Fence | None:
    """The fence open at `end`, or _UNSAFE if a cut there would give the two halves of the line another meaning."""
    after = fence_after(text[start:end], fence)
    if end == len(text) or text[end - 1] == "\n":
        return after
    line_start = max(start, text.rfind("\n", start, end) + 1)
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    before = fence_after(text[start:line_start], fence)
    uncut = fence_after_line(text[line_start:line_end], before)
    rest = fence_after_line(text[end:line_end], after)
    return after if _marker(after) == _marker(uncut) == _marker(rest) else _UNSAFE


def _marker(fence: Fence | None) -> str:
    return fence.marker if fence else ""
