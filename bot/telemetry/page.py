"""The page of numbers that Prometheus scrapes: the bot's, and with them those of our own engine.

It is made when somebody asks, at most once a second. The engine's part is parsed and written anew, so that a server
that answers something else cannot spoil the page. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import prometheus_client as prometheus
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from bot.telemetry import metrics
from bot.telemetry.replica_numbers import Report, replica_families

CONTENT_TYPE = prometheus.CONTENT_TYPE_PLAIN_0_0_4
ENGINE_PREFIX = "guildllama_engine_"
MAX_ENGINE_CHARS = 1 << 20
SCRAPE_SECONDS = 4.0
"""For the engine's answer; Prometheus itself waits for 10 s."""
_SHARED_SECONDS = 1.0
"""How long a page is shown to others who ask."""


class Engine(Protocol):
    """What is asked of the engine's client."""

    async def ready(self) -> bool:
        """Whether the server would answer now."""

    async def metrics_pages(self) -> Sequence[str]:
        """The text of each server's /metrics, or "" for one that has none."""

    def reports(self) -> Sequence[Report]:
        """How each of several servers is; of one, nothing."""


class Models(Protocol):
    """The models of the bot."""

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The engine of each by its name, that of the default one first."""


def engine_families(text: str) -> list[Metric]:
    """The numbers of our own engine in this text, by the names that it gives them; [] if it cannot be read."""
    if len(text) > MAX_ENGINE_CHARS:
        return []
    try:
        families = {family.name: family for family in text_string_to_metric_families(text)}
    except (ValueError, KeyError, IndexError, TypeError):
        return []
    return [family for name, family in families.items() if name.startswith(ENGINE_PREFIX) and family.samples]


def families_of_all(texts: Mapping[str, Sequence[str]]) -> list[Metric]:
    """`engine_families` of the servers of these models.

    Of several models each sample has its model's name as the label `model`, and where a model has several servers the
    server's number as `replica`.
    """
    merged: dict[str, Metric] = {}
    for model, pages in texts.items():
        for number, text in enumerate(pages, start=1):
            labels = {"model": model} if len(texts) > 1 else {}
            if len(pages) > 1:
                labels["replica"] = str(number)
            for family in engine_families(text):
                into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                into.samples += [sample._replace(labels={**sample.labels, **labels}) for sample in family.samples]
    return list(merged.values())


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class MetricsPage:
    """The text that Prometheus scrapes. `models` is None until there are engines."""

    def __init__(self) -> None:
        self.models: Models | None = None
        self._lock = asyncio.Lock()
        self._page = b""
        self._made_at = -_SHARED_SECONDS

    async def text(self) -> bytes:
        """The page, at most a second old."""
        async with self._lock:
            if time.monotonic() - self._made_at >= _SHARED_SECONDS:
                self._page = await self._make()
                self._made_at = time.monotonic()
            return self._page

    async def _make(self) -> bytes:
        engines = {} if self.models is None else self.models.engines
        asked = dict(zip(engines, await asyncio.gather(*map(_ask, engines.values())), strict=True))
        families = await asyncio.to_thread(families_of_all, {name: texts for name, (_, texts) in asked.items()})
        metrics.ENGINE_UP.set(next((is_up for is_up, _ in asked.values()), False))
        for name, (is_up, _) in list(asked.items())[1:]:
            metrics.MODEL_UP.labels(name).set(is_up)
        metrics.ENGINE_METRICS_UP.set(bool(families))
        own = prometheus.generate_latest(metrics.REGISTRY)
        rest = prometheus.CollectorRegistry()
        reports = {name: engine.reports() for name, engine in engines.items()}
        rest.register(_Families([*replica_families(reports), *families]))
        return own + prometheus.generate_latest(rest)


async def _ask(engine: Engine) -> tuple[bool, Sequence[str]]:
    """Whether it would answer now, and its servers' numbers."""
    try:
        async with asyncio.timeout(SCRAPE_SECONDS):
            return await asyncio.gather(engine.ready(), engine.metrics_pages())
    except (TimeoutError, RuntimeError):  # RuntimeError: the client was closed, as the bot stops
        return False, ()
