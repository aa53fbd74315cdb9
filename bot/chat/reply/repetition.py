"""Notices that a model has fallen into a loop: the text ends with one block, over and over.

A block is anything with words in it, from one word to a few paragraphs. What people ask for is left alone: lists whose
entries differ, tables, drawings, rows of zeros in code, a sentence a hundred times. So it takes MIN_REPEATS and
MIN_CHARS of the same, more in a code block, and lines of signs do not count at all. Pure.
"""

from __future__ import annotations

MIN_REPEATS = 6
MIN_CHARS = 3_000
"""About one and a half Discord messages of nothing else."""
MIN_CHARS_IN_CODE = 12_000
KEPT_REPEATS = 3
"""Of the loop, this much stays in the reply: the reader sees why it ends."""
_MAX_PERIOD = 1_200  # characters of one block
_LONG_CHARS, _LONG_REPEATS = 4 * _MAX_PERIOD, 4
"""Fewer rounds are enough of paragraphs."""
_CHECK_EVERY = 200  # characters between two looks
_KNOWN_LOOP_CHARS = (600, 2_400)  # for short blocks and for long ones
_MIN_LETTERS = 0.3  # of a block: the others are drawings and tables
_WINDOW = MIN_CHARS_IN_CODE + _MAX_PERIOD


class RepetitionDetector:
    """Follows one reply as it grows."""

    def __init__(self) -> None:
        self._tail = ""
        self._length = 0
        self._checked_at = 0
        self._in_code = False
        self._line = ""

    def push(self, piece: str) -> int | None:
        """Append a piece. The length to which the reply is to be cut if it is in a loop; None while it is not."""
        self._length += len(piece)
        self._tail = (self._tail + piece)[-_WINDOW:]
        self._follow_fences(piece)
        if self._length - self._checked_at < _CHECK_EVERY:
            return None
        self._checked_at = self._length
        repeated = loop_at_end(self._tail, min_chars=MIN_CHARS_IN_CODE if self._in_code else MIN_CHARS)
        if repeated is None:
            return None
        return self._cut(*repeated)

    def cut_known_loop(self) -> int | None:
        """As `push`, once the server has ended the reply as a loop: any run of some length at its end is that loop."""
        for min_chars in _KNOWN_LOOP_CHARS:
            if (repeated := loop_at_end(self._tail, min_chars=min_chars)) is not None:
                return self._cut(*repeated)
        return None

    def _cut(self, run: int, period: int) -> int:
        at = len(self._tail) - run + KEPT_REPEATS * period
        return self._length - len(self._tail) + at + _to_boundary(self._tail[at : at + period])

    def _follow_fences(self, piece: str) -> None:
        *complete, rest = (self._line + piece).split("\n")
        for line in complete:
            if line.lstrip().startswith(("```", "~~~")):
                self._in_code = not self._in_code
        self._line = rest[:80]


def loop_at_end(text: str, *, min_chars: int = MIN_CHARS) -> tuple[int, int] | None:
    """The length of the loop at the end of a text, and of one round of it; None if there is no loop."""
    for chars, repeats in ((min_chars, MIN_REPEATS), (max(min_chars, _LONG_CHARS), _LONG_REPEATS)):
        period = _period(text[-chars:], repeats) if len(text) >= chars else None
        if period is not None:
            break
    else:
        return None
    block = text[-period:]
    letters = sum(character.isalpha() for character in block)
    if letters < _MIN_LETTERS * period:
        return None
    run = chars
    while run < len(text) and text[-run - 1] == text[-run - 1 + period]:
        run += 1
    return run, period


def _period(text: str, repeats: int) -> int | None:
    """The shortest period of a text that is at least `repeats` rounds of one block; None if it is not."""
    # The failure function of Knuth, Morris and Pratt: linear, whatever a model writes.
    longest = min(_MAX_PERIOD, len(text) // repeats)
    border = [0] * len(text)
    matched = 0
    for index in range(1, len(text)):
        while matched and text[index] != text[matched]:
            matched = border[matched - 1]
        if text[index] == text[matched]:
            matched += 1
        border[index] = matched
    period = len(text) - border[-1]
    return period if period <= longest else None


def _to_boundary(text: str) -> int:
    """How many characters there are to the end of a line, a sentence or a word, whichever is found first of these."""
    for separator in ("\n", ". ", "! ", "? ", " "):
        if (found := text.find(separator)) >= 0:
            return found + len(separator)
    return 0
