"""How many prompt tokens may join a step: a few where others are waiting for their next token, many where nobody is.

A step of `burst` tokens reads prompts at the lowest cost but takes several times as long as one of `chunk`. While rows
decode, at most one step in `RARELY` may be such a one (some can be saved up), so that the time between two tokens is an
ordinary step's at the 95th percentile. Counts steps; knows no clock, no queue, no request.
"""

from typing import Final

RARELY: Final = 25
SAVED: Final = 16.0


class Pace:
    def __init__(self, chunk: int, burst: int, rows: int) -> None:
        """`burst` 0: every step may take `chunk` tokens. `rows` is what decoding may add to a step's tokens."""
        self._chunk, self._burst, self._rows = chunk, burst, rows
        self._saved = SAVED

    def budget(self, decoding: int) -> int:
        """Prompt tokens for a step in which so many rows decode."""
        if not self._burst:
            return self._chunk
        if not decoding:
            self._saved = SAVED
            return self._burst + self._rows
        return self._burst if self._saved >= 1 else self._chunk

    def spent(self, decoding: int, tokens: int) -> None:
        """A step with so many rows and prompt tokens has been planned."""
        if self._burst and decoding:
            used = 1.0 if tokens > self._chunk else 0.0
            self._saved = min(SAVED, self._saved - used + 1 / RARELY)
