"""How each of several servers of the model is, as numbers for Prometheus. With one server there are none.

Knows what a report has; knows neither the servers nor how they are asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def replica_families(reports: Mapping[str, Sequence[Report]]) -> list[Metric]:
    """The numbers of each model's servers, each with its place as the label `replica`.

    Of several models each sample has its model's name as the label `model`, as in `families_of_all`.
    """
    named = ["model", "replica"] if len(reports) > 1 else ["replica"]
    info = _gauge("info", "1; where the server is and what it serves", *named, "server", "serves")
    state = _gauge("state", "1 for the state that the server is in", *named, "state")
    in_flight = _gauge("in_flight", "Requests of this process that the server has", *named)
    limit = _gauge("limit", "Requests at once that the server takes, where that is known", *named)
    for model, report in ((model, report) for model, each in reports.items() for report in each):
        names = [model, str(report.number)][-len(named) :]
        info.add_metric([*names, report.address, report.model or ""], 1)
        for each in STATES:
            state.add_metric([*names, each], float(report.state == each))
        in_flight.add_metric(names, report.num_in_flight)
        if report.limit is not None:
            limit.add_metric(names, report.limit)
    return [info, state, in_flight, limit] if any(reports.values()) else []


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
