"""Notices that a response does nothing but repeat itself: its last tokens are one block, over and over.

Repetition that people ask for must not count: lists whose entries differ, tables, drawings, refrains, rows of zeros, a
sentence a hundred times. So a loop needs very many identical tokens, and more in a code block or with few letters.
Without the guard a small model in a loop goes on until the context is full.

Knows token ids and their text, not requests. The bot has its own guard (`bot/chat/repetition.py`), which works on the
text of any server and ends a reply earlier.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Final

BOUNDS: Final = ((1500, 8), (2400, 5))
"""Tokens of a loop, and rounds of it: short blocks, and paragraphs."""
QUIET_BOUNDS: Final = ((6000, 8),)
"""In a code block, and for blocks with few letters."""
_LONGEST_PERIOD: Final = max(length // rounds for length, rounds in BOUNDS)
_LAST: Final = 16
_CHECK_EVERY: Final = 128  # tokens between two looks
_MIN_LETTERS: Final = 0.3  # of a block's characters
_ID_BYTES: Final = array("i").itemsize


class RepetitionGuard:
    """Follows one response as it grows."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._next_look = BOUNDS[0][0]
        self._backticks = 0  # of three in a row
        self._rest = ""

    def push(self, text: str, token_ids: Sequence[int]) -> bool:
        """Take the next text, and all ids so far: whether the response ends with a loop. Looks only now and then."""
        if self._rest or "`" in text:
            self._follow(text)
        return len(token_ids) >= self._next_look and self._is_loop(token_ids)

    def _follow(self, text: str) -> None:
        """The text may open or close a code block."""
        text = self._rest + text
        self._backticks += text.count("```")
        self._rest = "`" * min(2, len(text) - len(text.rstrip("`"))) if not text.endswith("```") else ""

    def _is_loop(self, token_ids: Sequence[int]) -> bool:
        self._next_look = len(token_ids) + _CHECK_EVERY
        if not _may_be_loop(token_ids):
            return False
        period = _period_of(token_ids, BOUNDS)
        if period is None:
            return False
        block = self._decode(token_ids[-period:])
        quiet = self._backticks % 2 or sum(map(str.isalpha, block)) < _MIN_LETTERS * len(block)
        return not quiet or _period_of(token_ids, QUIET_BOUNDS) is not None


def _may_be_loop(token_ids: Sequence[int]) -> bool:
    """Cheap, and true for every loop: its last few tokens came at most a period before."""
    ids = array("i", token_ids[-_LONGEST_PERIOD - _LAST :]).tobytes()
    return ids.find(ids[-_LAST * _ID_BYTES :]) < len(ids) - _LAST * _ID_BYTES


def _period_of(token_ids: Sequence[int], bounds: Sequence[tuple[int, int]]) -> int | None:
    for length, rounds in bounds:
        if len(token_ids) >= length and (period := period_of(token_ids[-length:], rounds)) is not None:
            return period
    return None


def period_of(token_ids: Sequence[int], rounds: int) -> int | None:
    """The shortest period of a list that is one block, repeated at least `rounds` times; `rounds` is three or more.

    In C's speed: the shortest shift at which the last two rounds appear again can only be the period.
    """
    ids = array("i", token_ids).tobytes()
    longest = len(token_ids) // rounds
    tail = ids[-2 * longest * _ID_BYTES :]
    end = len(ids) - 1
    while (found := ids.rfind(tail, 0, end)) >= 0 and found % _ID_BYTES:
        end = found + len(tail) - 1  # between two ids
    shift = len(ids) - len(tail) - found
    if found < 0 or shift > longest * _ID_BYTES or ids[shift:] != ids[:-shift]:
        return None
    return shift // _ID_BYTES
