"""Keeps the pictures of the last messages in memory for a while, so that another reply to one of them sees them too.

They are stored nowhere: after this time, or a restart, a reply is written anew without them. Knows turns by their ids.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from bot.attachments.types import ImageInput

SECONDS = 900.0
MAX_BYTES = 64 << 20


class RecentImages:
    """The pictures of the last messages, by turn."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: OrderedDict[int, tuple[float, tuple[ImageInput, ...]]] = OrderedDict()

    def keep(self, turn_id: int, images: Sequence[ImageInput]) -> None:
        """Remember the pictures of a turn, at the expense of the oldest ones if there are too many."""
        if not turn_id or not images:
            return
        self._kept[turn_id] = (self._now() + SECONDS, tuple(images))
        while sum(_size(each) for _, each in self._kept.values()) > MAX_BYTES:
            self._kept.popitem(last=False)
        self._drop_old()

    def of(self, turn_id: int | None) -> tuple[ImageInput, ...]:
        """The pictures of a turn, as far as they are still there."""
        self._drop_old()
        return self._kept.get(turn_id or 0, (0.0, ()))[1]

    def forget(self, turn_id: int) -> None:
        """Drop the pictures of a turn now."""
        self._kept.pop(turn_id, None)

    def _drop_old(self) -> None:
        while self._kept and next(iter(self._kept.values()))[0] <= self._now():
            self._kept.popitem(last=False)


def _size(images: Sequence[ImageInput]) -> int:
    return sum(len(image.data) for image in images)
