"""How one of several servers is, as a plain value for the log, the metrics and `doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from bot.engine_client.replicas.condition import State


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """One server at one moment."""

    number: int
    address: str
    state: State
    model: str | None
    context_length: int | None
    num_in_flight: int
    limit: int | None
    """Requests at once, where that is known."""
