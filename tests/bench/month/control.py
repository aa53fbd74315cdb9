"""How long a fixed piece of work takes meanwhile: what of a time is the machine's, which has other work as well.

A thread of its own does it four times a second. Where these times grow from day to day, those of the bot do, too.
"""

from __future__ import annotations

import threading
import time

WORK = 20_000
"""Numbers that are summed: a third of a millisecond on an idle core."""
INTERVAL = 0.25  # seconds


class Control:
    """From `start` to `stop`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._seconds: list[float] = []

    def start(self) -> None:
        self._stop, self._seconds = threading.Event(), []
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> list[float]:
        """Seconds of the work and of the wait before it beyond what was asked for, each time."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self._seconds

    def _run(self) -> None:
        while True:
            began = time.perf_counter()
            if self._stop.wait(INTERVAL):
                return
            sum(range(WORK))
            self._seconds.append(time.perf_counter() - began - INTERVAL)
