"""How far the loading of a model is, told by the threads that load to the one that answers meanwhile. Data only."""

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


class LoadStage:
    """A stage of `total` pieces or bytes; 0: it is not known how many. Any thread may call it."""

    def __init__(self, name: str, total: int = 0) -> None:
        self.name, self.total = name, total
        self._done = 0
        self._lock = threading.Lock()

    def advance(self, count: int = 1) -> None:
        """`count` more pieces or bytes are done."""
        with self._lock:
            self._done += count

    @property
    def is_unfinished(self) -> bool:
        """Whether it is known that some of it is left."""
        return self._done < self.total

    @property
    def state(self) -> LoadState:
        """How far it is."""
        return LoadState(self.name, min(100, 100 * self._done // self.total) if self.total else None)


class LoadProgress:
    """The stages that have begun. One may begin before the one before it has ended: weights are read beside others."""

    def __init__(self) -> None:
        self._stages: tuple[LoadStage, ...] = ()

    def begin(self, name: str, total: int = 0) -> LoadStage:
        """A further stage, of `total` pieces or bytes; 0: it is not known how many. From one thread at a time."""
        stage = LoadStage(name, total)
        self._stages += (stage,)
        return stage

    @property
    def state(self) -> LoadState | None:
        """Of the first stage that is not finished, or of the last one; None before the first."""
        stages = self._stages
        shown = next((stage for stage in stages if stage.is_unfinished), stages[-1] if stages else None)
        return None if shown is None else shown.state
