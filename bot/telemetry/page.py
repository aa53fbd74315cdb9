"""The page of numbers that Prometheus scrapes: the bot's, and with them those of our own engine.

It is made when somebody asks, at most once a second. The engine's part is parsed and written anew, so that a server
that answers something else cannot spoil the page. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
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


def engine_families(text: str) -> list[Metric]:
    """The numbers of our own engine in this text, by the names that it gives them; [] if it cannot be read."""
    if len(text) > MAX_ENGINE_CHARS:
        return []
    try:
        families = {family.name: family for family in text_string_to_metric_families(text)}
    except (ValueError, KeyError, IndexError, TypeError):
        return []
    return [family for name, family in families.items() if name.startswith(ENGINE_PREFIX) and family.samples]


def families_of_all(texts: Sequence[str]) -> list[Metric]:
    """`engine_families` of these servers; if there are several, with the server's number as the label `replica`."""
    if len(texts) == 1:
        return engine_families(texts[0])
    merged: dict[str, Metric] = {}
    for number, text in enumerate(texts, start=1):
        for family in engine_families(text):
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into.samples += [
                sample._replace(labels={**sample.labels, "replica": str(number)}) for sample in family.samples
            ]
    return list(merged.values())


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class MetricsPage:
    """The text that Prometheus scrapes. `engine` is None until there is one."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
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
        is_up, texts = await self._ask_engine()
        families = await asyncio.to_thread(families_of_all, texts)
        metrics.ENGINE_UP.set(is_up)
        metrics.ENGINE_METRICS_UP.set(bool(families))
        own = prometheus.generate_latest(metrics.REGISTRY)
        rest = prometheus.CollectorRegistry()
        reports = () if self.engine is None else self.engine.reports()
        rest.register(_Families([*replica_families(reports), *families]))
        return own + prometheus.generate_latest(rest)

    async def _ask_engine(self) -> tuple[bool, Sequence[str]]:
        if self.engine is None:
            return False, ()
        try:
            async with asyncio.timeout(SCRAPE_SECONDS):
                is_up, texts = await asyncio.gather(self.engine.ready(), self.engine.metrics_pages())
        except (TimeoutError, RuntimeError):  # RuntimeError: the client was closed, as the bot stops
            return False, ()
        return is_up, texts
