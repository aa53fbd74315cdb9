"""How far the loading of a model is, told by the thread that loads to the one that answers meanwhile. Data only."""

import threading
from dataclasses import dataclass
from typing import Final

READING: Final = "reading weights"
PREPARING: Final = "preparing the device"
RECORDING: Final = "recording steps"
RESTORING: Final = "restoring dialogs"


@dataclass(frozen=True, slots=True)
class LoadState:
    """What is being done, and how much of it is done; None where that is not known."""

    stage: str
    percent: int | None = None

    def __str__(self) -> str:
        return self.stage if self.percent is None else f"{self.stage}, {self.percent} %"


class LoadProgress:
    """The loader calls `begin` for each stage and `advance` within it, on any thread."""

    def __init__(self) -> None:
        self._stage, self._done, self._total = "", 0, 0
        self._lock = threading.Lock()

    def begin(self, stage: str, total: int = 0) -> None:
        """A stage of `total` pieces or bytes; 0: it is not known how many."""
        with self._lock:
            self._stage, self._done, self._total = stage, 0, total

    def advance(self, count: int = 1) -> None:
        """`count` more pieces or bytes of the stage are done."""
        with self._lock:
            self._done += count

    @property
    def state(self) -> LoadState | None:
        """Where the loader is; None before the first stage."""
        with self._lock:
            if not self._stage:
                return None
            percent = min(100, 100 * self._done // self._total) if self._total else None
            return LoadState(self._stage, percent)
