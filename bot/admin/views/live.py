"""Figures of the running engine, read from a page in Prometheus' format: the engine's own, or one that passes it on.

Knows the names of our engine's metrics. What another server does not have is None.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from bot.engine_client.aiohttp_transport import AiohttpTransport
from bot.engine_client.bounded_http import BoundedClient

INTERVAL = 15.0
"""Seconds between two readings."""
_KEPT = 240
_TIMEOUT = 3.0
_MAX_CHARS = 2 << 20
_PREFIX = "guildllama_engine_"


@dataclass(frozen=True, slots=True)
class Reading:
    """The engine's figures at one moment."""

    at: datetime
    clock: float
    values: Mapping[str, float]

    def get(self, name: str) -> float | None:
        """A figure by our engine's name without its prefix."""
        return self.values.get(_PREFIX + name)

    @property
    def prefix_hits(self) -> float | None:
        """The share of prompt tokens that were in the cache."""
        hits, computed = self.get("prefix_hit_tokens_total"), self.get("prefill_tokens_total")
        return None if hits is None or computed is None or hits + computed == 0 else hits / (hits + computed)


class LiveFigures:
    """Reads the page now and then, and keeps the readings of the last hour."""

    def __init__(self, url: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.problem: str | None = None
        self.readings: deque[Reading] = deque(maxlen=_KEPT)
        self._clock = clock

    async def run(self) -> None:
        """Read until cancelled."""
        while self.url is not None:
            await self.read()
            await asyncio.sleep(INTERVAL)

    async def read(self) -> None:
        """Read the page once."""
        if self.url is None:
            return
        try:
            async with BoundedClient(transport=AiohttpTransport(), timeout=_TIMEOUT, follow_redirects=False) as client:
                answer = await client.get(self.url)
                answer.raise_for_status()
                values = await asyncio.to_thread(_values, answer.text[:_MAX_CHARS])
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, LookupError) as error:
            self.problem = type(error).__name__
            return
        self.problem = None
        self.readings.append(Reading(datetime.now(UTC), self._clock(), values))

    def speeds(self) -> list[tuple[str, float]]:
        """Tokens a second between readings, with the time of each."""
        found = []
        for before, after in zip(self.readings, list(self.readings)[1:], strict=False):
            tokens = [each.get("generated_tokens_total") for each in (before, after)]
            if tokens[0] is None or tokens[1] is None or after.clock <= before.clock:
                continue
            # A counter that fell belongs to an engine that was started anew.
            grown = tokens[1] - tokens[0] if tokens[1] >= tokens[0] else tokens[1]
            found.append((f"{after.at:%H:%M:%S}", grown / (after.clock - before.clock)))
        return found


def _values(text: str) -> dict[str, float]:
    """Samples without labels, by name. A page may be anything: what is no number is left out."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels and sample.value == sample.value and abs(sample.value) < 1e18
    }
