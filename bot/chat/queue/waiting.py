"""One message that waits for its first token, as a front-end can tell it: place in line, seconds, what it waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bot.chat.queue.admission import Slot
from bot.chat.queue.wait_estimate import WaitEstimate


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """What is known of a waiting message now."""

    place: int
    """1: no other message of this process waits longer. 0: it waits no more."""
    seconds: float | None
    """About how long it still waits; None if that cannot be said."""
    behind_own: bool = False
    """Whether an earlier message of the same dialog is still being answered."""
    loading: bool = False
    """Whether the model is still being loaded, so that nothing is answered yet."""
    load_progress: str = ""
    """How far that is, such as "43 %"; "" if it is not known."""
    thinking: bool = False
    """Whether the model has begun, and thinks before it answers."""


@dataclass(frozen=True, slots=True)
class WaitingInfo:
    """One of a member's messages that wait. `asked_by`: the interaction or message, by which it can be cancelled."""

    asked_by: int | None
    status: WaitStatus


class Waiting:
    """A message from its admission to its first token."""

    def __init__(self, slot: Slot, estimate: WaitEstimate, loading: Callable[[], str | None]) -> None:
        """`loading`: how far the model is loaded, "" if that is not known; None: it is loaded."""
        self.behind_own = True
        """Until the message holds its dialog's lock."""
        self.thinking = False
        """Whether the model thinks."""
        self._slot = slot
        self._estimate = estimate
        self._loading = loading

    def status(self) -> WaitStatus | None:
        """How it stands; None once the message waits no more."""
        if self.thinking:
            return WaitStatus(0, None, thinking=True)
        line = self._slot.line()
        if not line:
            return None
        loading = self._loading()
        seconds = self._estimate.seconds(line)
        return WaitStatus(len(line), seconds, self.behind_own, loading is not None, loading or "")
