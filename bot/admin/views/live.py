"""Figures of the running engine, or of several, read from pages in Prometheus' format.

A page is an engine's own, or the bot's, which passes them on and says of several which is which. Knows the names of our
metrics. What another server does not have is None.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from bot.engine_client.http.aiohttp_transport import AiohttpTransport
from bot.engine_client.http.bounded_http import BoundedClient

INTERVAL = 15.0
"""Seconds between two readings."""
_KEPT = 240
_TIMEOUT = 3.0
_MAX_CHARS = 2 << 20
_PREFIX = "guildllama_engine_"
_OF_THE_BOT = "guildllama_bot_replica_"
_NAMES = ("model", "replica")
"""Labels that say which server it is, where there are several models or servers."""

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Server:
    """One server's figures at one moment, by our engine's names without their prefix."""

    figures: Figures
    state: str = ""
    """As the bot sees it, one of several: well, away, resting, trial; "" if that is not known."""

    @property
    def prefix_hits(self) -> float | None:
        """The share of prompt tokens that were in the cache."""
        hits, computed = self.figures.get("prefix_hit_tokens_total"), self.figures.get("prefill_tokens_total")
        return None if hits is None or computed is None or hits + computed == 0 else hits / (hits + computed)


@dataclass(frozen=True, slots=True)
class Reading:
    """The figures of all servers at one moment."""

    at: datetime
    clock: float
    servers: Mapping[str, Server]
    """By their models and numbers, as far as there are several; "" is the only one, which has neither."""

    def get(self, name: str) -> float | None:
        """A figure by our engine's name without its prefix: the sum over the servers that have it."""
        found = [value for each in self.servers.values() if (value := each.figures.get(name)) is not None]
        return sum(found) if found else None

    @property
    def prefix_hits(self) -> float | None:
        """The share of prompt tokens that were in a cache."""
        names = ("prefix_hit_tokens_total", "prefill_tokens_total")
        return Server({name: value for name in names if (value := self.get(name)) is not None}).prefix_hits


class LiveFigures:
    """Reads the pages now and then, and keeps the readings of the last hour."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """`urls`: of one page, or of each server's own one."""
        self.urls = tuple(urls)
        self.problem: str | None = None
        """Why nothing could be read, or not all of it."""
        self.readings: deque[Reading] = deque(maxlen=_KEPT)
        self._clock = clock

    async def run(self) -> None:
        """Read until cancelled."""
        while self.urls:
            await self.read()
            await asyncio.sleep(INTERVAL)

    async def read(self) -> None:
        """Read each page once."""
        if not self.urls:
            return
        pages = await asyncio.gather(*(_page(url) for url in self.urls))
        problems = [page for page in pages if isinstance(page, str)]
        self.problem = problems[0] if problems else None
        if len(problems) == len(pages):
            return
        servers: dict[str, Server] = {}
        for number, page in enumerate(pages, start=1):
            if isinstance(page, str):
                servers[str(number)] = Server({}, "not read")
            elif len(pages) == 1:
                servers = page
            elif "" in page:
                servers[str(number)] = page[""]
        self.readings.append(Reading(datetime.now(UTC), self._clock(), servers))

    def speeds(self) -> list[tuple[str, float]]:
        """Tokens a second of all servers between readings, with the time of each."""
        found = []
        for before, after in zip(self.readings, list(self.readings)[1:], strict=False):
            grown = [_growth(before.servers.get(name), server) for name, server in after.servers.items()]
            known = [each for each in grown if each is not None]
            if known and after.clock > before.clock:
                found.append((f"{after.at:%H:%M:%S}", sum(known) / (after.clock - before.clock)))
        return found


def _growth(before: Server | None, after: Server) -> float | None:
    """The tokens that one server has generated between two readings; None if either does not tell."""
    was = None if before is None else before.figures.get("generated_tokens_total")
    now = after.figures.get("generated_tokens_total")
    if was is None or now is None:
        return None
    return now - was if now >= was else now  # a counter that fell belongs to an engine that was started anew


async def _page(url: str) -> dict[str, Server] | str:
    """The servers of one page, or why it could not be read."""
    try:
        async with BoundedClient(transport=AiohttpTransport(), timeout=_TIMEOUT, follow_redirects=False) as client:
            answer = await client.get(url)
            answer.raise_for_status()
            return await asyncio.to_thread(_servers, answer.text[:_MAX_CHARS])
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, LookupError) as error:
        return type(error).__name__


def _servers(text: str) -> dict[str, Server]:
    """The servers of a page by their numbers. A page may be anything: what is no number is left out."""
    figures: dict[str, dict[str, float]] = {}
    states: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            number = " ".join(sample.labels[label] for label in _NAMES if label in sample.labels)
            labels = sample.labels.keys() - set(_NAMES)
            if sample.value != sample.value or abs(sample.value) >= 1e18:
                continue
            if sample.name.startswith(_PREFIX) and not labels:
                figures.setdefault(number, {})[sample.name.removeprefix(_PREFIX)] = sample.value
            elif sample.name == f"{_OF_THE_BOT}state" and sample.value == 1:
                states[number] = sample.labels.get("state", "")
    names = [*figures, *(number for number in states if number not in figures)]
    return {number: Server(figures.get(number, {}), states.get(number, "")) for number in sorted(names, key=_order)}


def _order(name: str) -> list[tuple[int, int, str]]:
    """By the model's name and then by the server's number, as a number."""
    return [(0, int(part), "") if part.isdecimal() and len(part) < 10 else (1, 0, part) for part in name.split()]
