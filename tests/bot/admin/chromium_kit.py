"""Debian's Chromium at the operator's page: for pictures, and for what only a browser tells."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from playwright.async_api import Browser, async_playwright

from bot.admin.server import serve_admin
from bot.settings import Settings
from models.database import Database
from tests.bot.admin.story import METRICS
from tests.fakes.discord.render import chromium

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars"]
DESKTOP, PHONE = {"width": 1180, "height": 800}, {"width": 390, "height": 780}


@asynccontextmanager
async def served(database: Database, settings: Settings) -> AsyncIterator[str]:
    """Serve the page; yield the one-time link."""
    told: asyncio.Queue[str] = asyncio.Queue()
    server = asyncio.create_task(serve_admin(settings, database, told.put_nowait))
    said = asyncio.create_task(told.get())
    await asyncio.wait([server, said], return_when=asyncio.FIRST_COMPLETED)
    found = re.search(r"http://\S+", said.result())
    assert found
    try:
        yield found[0]
    finally:
        server.cancel()
        with suppress(asyncio.CancelledError):
            await server


@asynccontextmanager
async def metrics_page() -> AsyncIterator[str]:
    """A page as the engine's, whose counter of tokens grows; yield its address."""
    tokens = [100_000]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # the reader was ended
            await reader.readuntil(b"\r\n\r\n")
        tokens[0] += 900
        body = METRICS.format(tokens=tokens[0]).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A Chromium of the system."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield started
        await started.close()
