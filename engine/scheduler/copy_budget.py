"""How many pages a step may copy between device and host, so that the copies end before the step does.

It knows bytes and counts. It knows neither time nor which pages.
"""

from typing import Final

# A link moves 50 bytes a nanosecond, and the shortest steps of models whose pages are large take 4 ms.
RESTORED_BYTES: Final = 256 << 20  # of a step beside which rows decode
SAVED_BYTES: Final = 128 << 20
IDLE_FACTOR: Final = 4  # times as many where no row decodes


class CopyBudget:
    """The limits of each step, by what else is in it."""

    def __init__(self, page_bytes: int) -> None:
        """`page_bytes` of one rank: each has a link of its own."""
        self._restored = max(1, RESTORED_BYTES // max(1, page_bytes))
        self._saved = max(1, SAVED_BYTES // max(1, page_bytes))

    def restored_pages(self, num_decoding: int) -> int:
        """Pages that a step may restore."""
        return self._restored if num_decoding else IDLE_FACTOR * self._restored

    def saved_pages(self, num_prefilled_pages: int) -> int:
        """Pages that a step may save: as many as it computes, which takes longer than their copies, and some more."""
        return self._saved + num_prefilled_pages
