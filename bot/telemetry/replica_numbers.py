"""How each of several servers of the model is, as numbers for Prometheus. With one server there are none.

Knows what a report has; knows neither the servers nor how they are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric

PREFIX: Final = "guildllama_bot_replica"
STATES: Final = ("well", "away", "resting", "trial")


class Report(Protocol):
    """What the bot knows of one server."""

    @property
    def number(self) -> int:
        """Its place in the setting, from 1 on."""

    @property
    def address(self) -> str:
        """Host and port, without credentials."""

    @property
    def state(self) -> str:
        """One of `STATES`."""

    @property
    def model(self) -> str | None:
        """The model that it serves; None until it has said so."""

    @property
    def num_in_flight(self) -> int:
        """The bot's requests that it has."""

    @property
    def limit(self) -> int | None:
        """Requests at once, where that is known."""


def replica_families(reports: Sequence[Report]) -> list[Metric]:
    """The numbers of these servers, each with its place as the label `replica`."""
    if not reports:
        return []
    info = _gauge("info", "1; where the server is and what it serves", "server", "model")
    state = _gauge("state", "1 for the state that the server is in", "state")
    in_flight = _gauge("in_flight", "Requests of this process that the server has")
    limit = _gauge("limit", "Requests at once that the server takes, where that is known")
    for report in reports:
        number = str(report.number)
        info.add_metric([number, report.address, report.model or ""], 1)
        for each in STATES:
            state.add_metric([number, each], float(report.state == each))
        in_flight.add_metric([number], report.num_in_flight)
        if report.limit is not None:
            limit.add_metric([number], report.limit)
    return [info, state, in_flight, limit]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["replica", *labels])
