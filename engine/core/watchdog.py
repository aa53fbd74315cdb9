"""Notices that a step does not end: when a rank hangs, the others wait inside a collective, where no Python runs.

It knows a limit and a clock. What a hang means is decided by whoever is called.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

LOOK = 0.25  # seconds between looks at the clock


class Watchdog:
    """`on_hang` is called once, from the watchdog's own thread, when a step has taken longer than `limit` seconds."""

    def __init__(self, limit: float, on_hang: Callable[[float], None]) -> None:
        self._limit, self._on_hang = limit, on_hang
        self._began: float | None = None
        self._stop = threading.Event()
        threading.Thread(target=self._watch, name="step-watchdog", daemon=True).start()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK):
            began = self._began
            if began is not None and time.monotonic() - began > self._limit:
                self._on_hang(self._limit)
                return
