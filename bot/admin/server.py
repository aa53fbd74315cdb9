"""Runs the operator's page until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import uvicorn

from bot.admin.access.address import check_address
from bot.admin.access.guard import Names
from bot.admin.app import build
from bot.admin.context import Admin
from bot.admin.pages.login import announce_link
from bot.admin.views.live import LiveFigures
from bot.errors import ConfigError
from bot.settings import Settings
from bot.settings.addresses import is_loopback
from models.database import Database

_GRACE = 5
"""Seconds that a page has left when the server ends."""


def live_urls(settings: Settings) -> tuple[str, ...]:
    """Where the engines' figures are read: the setting, or the bot's own page, or /metrics of each ENGINE_URL."""
    if settings.admin_metrics_url is not None:
        return (settings.admin_metrics_url,)
    if settings.metrics_port is not None:
        host = settings.metrics_host if is_loopback(settings.metrics_host) else "127.0.0.1"
        return (f"http://{f'[{host}]' if ':' in host else host}:{settings.metrics_port}/metrics",)
    parts = [urlsplit(url) for url, _key in settings.engine_servers]
    return tuple(f"{each.scheme}://{each.netloc}/metrics" for each in parts)


async def serve_admin(settings: Settings, database: Database, announce: Callable[[str], None]) -> None:
    """Serve until the process is told to end. Raises ConfigError if the address cannot be used."""
    check_address(settings)
    listening = _listen(settings)
    port = listening.getsockname()[1]
    settings = settings.model_copy(update={"admin_port": port})
    names = Names.of(settings.admin_host, port, settings.admin_url)
    admin = Admin(settings, database, names, announce, LiveFigures(live_urls(settings)))
    config = uvicorn.Config(
        build(admin),
        access_log=False,  # its lines would have what was searched for
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        h11_max_incomplete_event_size=16 << 10,
        limit_concurrency=100,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE,
    )
    if settings.admin_password_hash is None:
        announce_link(admin)
    else:
        host = f"[{settings.admin_host}]" if ":" in settings.admin_host else settings.admin_host
        announce(f"Open {settings.admin_url or f'http://{host}:{port}'} and sign in with the password.")
    server = _Server(config)
    with listening, _ended_by_signals(server):
        await server.serve([listening])


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again at its end, before the database is closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """In this block, SIGTERM and Ctrl-C end the server; a second one does not wait for pages that are being read."""

    def end() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        loop.add_signal_handler(each, end)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


def _listen(settings: Settings) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            settings.admin_host, settings.admin_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, reuse_port=False)
    except OSError as error:
        raise ConfigError(
            "GUILDLLAMA_ADMIN_HOST",
            f"{settings.admin_host} port {settings.admin_port} cannot be used: {error.strerror or error}",
            "Is another program there? Choose another GUILDLLAMA_ADMIN_PORT.",
        ) from error
