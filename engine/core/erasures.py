"""Erasures of tenants between the threads that ask for them and the engine thread, which plans them.

An erasure is answered once plans have overwritten the tenant's cached pages on every rank. It knows futures, no pages
and no HTTP.
"""

from concurrent.futures import Future
from dataclasses import dataclass, field

from engine.core.request_stream import EngineDead


@dataclass(frozen=True, slots=True)
class Erasure:
    """A tenant whose pages are to be overwritten; `done` gets their number once that is on its way."""

    tenant: str
    done: "Future[int]" = field(default_factory=Future)


class PendingErasures:
    """Those that the scheduler has planned and that are not answered. Only the engine thread uses it."""

    def __init__(self) -> None:
        self._pending: list[tuple[Erasure, int]] = []

    def __bool__(self) -> bool:
        return bool(self._pending)

    def add(self, erasure: Erasure, num_pages: int) -> None:
        """The next plans overwrite `num_pages` cached pages of the tenant."""
        self._pending.append((erasure, num_pages))

    def finish(self) -> None:
        """All of them are overwritten."""
        for erasure, num_pages in self._pending:
            if erasure.done.set_running_or_notify_cancel():
                erasure.done.set_result(num_pages)
        self._pending.clear()

    def fail(self, reason: str) -> None:
        """None of them will be overwritten any more."""
        for erasure, _ in self._pending:
            if erasure.done.set_running_or_notify_cancel():
                erasure.done.set_exception(EngineDead(reason))
        self._pending.clear()
