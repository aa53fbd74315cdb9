"""Reads the numbers of this process, or of a page."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from bot.telemetry import metrics


def value(name: str, **labels: str) -> float:
    """One series of the bot, without the prefix of its name."""
    return metrics.REGISTRY.get_sample_value(f"{metrics.PREFIX}_{name}", labels) or 0.0


class Page:
    """The text of /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def __getitem__(self, name: str) -> float:
        """The sum of the series of this name."""
        return self.sum(name)

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels."""
        found = [each for each in self._samples if each.name == name and labels.items() <= each.labels.items()]
        assert found, f"no {name} {labels}"
        return sum(each.value for each in found)

    @property
    def names(self) -> set[str]:
        return {each.name for each in self._samples}
