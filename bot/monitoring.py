"""Serves the bot's numbers, and with them those of our own engine, at http://METRICS_HOST:METRICS_PORT/metrics.

The numbers are `bot.telemetry.metrics`'. They are put together when Prometheus asks, at most once a second. The
engine's are parsed and written anew, so that a server that answers something else cannot spoil the page. Starts the
traces as well.
Knows aiohttp's server and settings; knows no message.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol

import prometheus_client as prometheus
import structlog
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from bot.errors import ConfigError
from bot.settings import Settings, is_loopback
from bot.telemetry import metrics
from bot.telemetry.tracing import INSTALL, MISSING, otlp_exporter, start_tracing

if TYPE_CHECKING:
    from aiohttp import web

log = structlog.get_logger(__name__)

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
        rest.register(_Families(families))
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


@asynccontextmanager
async def monitored(settings: Settings) -> AsyncIterator[MetricsPage]:
    """Serve the numbers and send the traces that the settings ask for. Raises ConfigError for what cannot work."""
    page = MetricsPage()
    async with AsyncExitStack() as stack:
        if settings.traces_url is not None:
            await stack.enter_async_context(_traced(settings, settings.traces_url))
        if settings.metrics_port is not None:
            kind = "sqlite" if settings.database_url.startswith("sqlite") else "postgres"
            engine = "own" if settings.engine_url is None else "external"
            metrics.INFO.labels(_version(), kind, engine).set(1)
            await stack.enter_async_context(_served(settings, settings.metrics_port, page))
        yield page


@asynccontextmanager
async def _traced(settings: Settings, url: str) -> AsyncIterator[None]:
    try:
        tracing = start_tracing(otlp_exporter(url), ratio=settings.traces_ratio)
    except ImportError:
        raise ConfigError("GUILDLLAMA_TRACES_URL", MISSING, INSTALL) from None
    log.info("traces are sent", url=url)
    try:
        yield
    finally:
        await asyncio.to_thread(tracing.close)


@asynccontextmanager
async def _served(settings: Settings, port: int, page: MetricsPage) -> AsyncIterator[None]:
    from aiohttp import web  # only here: the import takes a while

    is_local = is_loopback(settings.metrics_host)

    async def show(request: web.Request) -> web.Response:
        # A web page may let its own name lead to this machine, and then ask from within the operator's browser.
        if is_local and not is_loopback(_host_of(request)):
            return web.Response(status=403, text="This server answers to names of this machine only.\n")
        return web.Response(body=await page.text(), headers={"Content-Type": prometheus.CONTENT_TYPE_PLAIN_0_0_4})

    app = web.Application()
    app.router.add_get("/metrics", show)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            site = web.SockSite(runner, await asyncio.to_thread(listening_socket, settings.metrics_host, port))
            await site.start()
        except OSError as error:
            where = f"{settings.metrics_host}:{port}"
            raise ConfigError(
                "GUILDLLAMA_METRICS_PORT",
                f"{where} cannot be listened on: {error.strerror or error}",
                "Choose a port that no other program uses, and an address of this machine.",
            ) from None
        log.info("metrics are served", host=settings.metrics_host, port=runner.addresses[0][1], path="/metrics")
        yield
    finally:
        await runner.cleanup()


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound to the first address of this name. Raises OSError. Blocks."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that a killed bot has left
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def _host_of(request: web.Request) -> str:
    """The name in the Host header, without a port."""
    host = request.headers.get("Host", "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _version() -> str:
    try:
        return version("guildllama")
    except PackageNotFoundError:
        return "unknown"
