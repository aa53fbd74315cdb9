"""A wall clock that runs ahead of the real one, for two processes: the load generator and the bot.

A month passes by jumps: between two of them every second is a real second, so that Discord's 3 seconds and 15 minutes,
heartbeats and time-outs hold as they do in use, and a jump comes when nothing is under way. The monotonic clock and
the sockets never jump. time-machine moves what Python calls the time; `now()` inside a database stays real, and the
bot compares that one with itself alone.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import time_machine

DAY = 86_400.0


def real_time() -> float:
    """Seconds since the epoch on the clock that is on the wall."""
    hatch = time_machine.escape_hatch
    return hatch.time.time() if hatch.is_travelling() else time.time()


class Clock:
    """This process's clock. The bot's process reads from `file` by how many seconds it is ahead."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._ahead = 0.0
        self._travel = time_machine.travel(real_time(), tick=True)
        self._traveller: time_machine.Traveller | None = None

    def __enter__(self) -> Self:
        self._traveller = self._travel.start()
        self.move_to((time.time() // DAY + 1) * DAY)  # days begin at midnight, as quotas do
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._travel.stop()

    def move_to(self, moment: float) -> None:
        """Jump to a moment, in seconds since the epoch; a moment that has passed is no jump."""
        assert self._traveller
        seconds = max(0.0, moment - time.time())
        self._ahead += seconds
        self._traveller.shift(seconds)
        part = self.file.with_suffix(".part")
        part.write_text(repr(self._ahead))
        part.replace(self.file)
