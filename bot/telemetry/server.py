"""What an operator watches is served and sent, where the settings ask for it.

The numbers at http://METRICS_HOST:METRICS_PORT/metrics, for this machine alone unless the operator says otherwise; the
spans to the collector at TRACES_URL. Knows aiohttp's server and settings; knows no message.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import structlog

from bot.errors import ConfigError
from bot.settings import Settings
from bot.settings.addresses import is_loopback
from bot.telemetry import metrics
from bot.telemetry.page import CONTENT_TYPE, MetricsPage
from bot.telemetry.span_export import INSTALL, MISSING, otlp_exporter, start_tracing

if TYPE_CHECKING:
    from aiohttp import web

log = structlog.get_logger(__name__)


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
        return web.Response(body=await page.text(), headers={"Content-Type": CONTENT_TYPE})

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
