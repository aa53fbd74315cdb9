"""Notices that a step does not end: when a rank hangs, the others wait inside a collective, where no Python runs.

It knows a time limit and a clock. The caller decides what to do about a hung step.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

CHECK_INTERVAL: Final = 0.25  # seconds


class Watchdog:
    """`on_hang` is called once, from the watchdog's own thread, when a step has taken longer than `limit` seconds."""

    def __init__(self, limit: float, on_hang: Callable[[float], None]) -> None:
        self._limit, self._on_hang = limit, on_hang
        self._step_started: float | None = None
        self._stop = threading.Event()
        threading.Thread(target=self._watch, name="step-watchdog", daemon=True).start()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """The time limit applies to the body of this context."""
        self._step_started = time.monotonic()
        try:
            yield
        finally:
            self._step_started = None

    def stop(self) -> None:
        """End the watchdog's thread."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(CHECK_INTERVAL):
            started = self._step_started
            if started is not None and time.monotonic() - started > self._limit:
                self._on_hang(self._limit)
                return
