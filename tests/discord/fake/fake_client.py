"""A real discord.py client, in this process, on the fake Discord; for the tests of the fake itself.

Knows how discord.py is pointed at another server and what it told of. Knows no bot of ours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import discord
import yarl
from discord import app_commands

from tests.fakes.discord.server import FakeDiscord

PLAIN: dict[str, Any] = {"content": "Hello", "allowed_mentions": {"parse": []}}


class RecordingClient(discord.Client):
    """A client that keeps what discord.py dispatches, and does nothing with it."""

    def __init__(self, intents: discord.Intents) -> None:
        super().__init__(intents=intents, allowed_mentions=discord.AllowedMentions.none())
        self.tree = app_commands.CommandTree(self)
        self.events: list[tuple[str, tuple[Any, ...]]] = []

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:
        self.events.append((event, args))
        super().dispatch(event, *args, **kwargs)

    def named(self, event: str) -> list[Any]:
        """The first argument of every event of this name."""
        return [args[0] if args else None for name, args in self.events if name == event]


@asynccontextmanager
async def connected(
    fake: FakeDiscord, *, setup: Callable[[RecordingClient], None] = lambda client: None, **intents: bool
) -> AsyncIterator[RecordingClient]:
    """A client that is ready. Without `intents`: guilds and messages, no privileged one."""
    chosen = {"guilds": True, "messages": True, "reactions": True, **intents}
    base, gateway = discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY
    discord.http.Route.BASE = fake.url
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(fake.gateway.url)
    client = RecordingClient(discord.Intents(**chosen))
    client._connection.guild_ready_timeout = 0.05
    setup(client)
    running = asyncio.create_task(client.start(fake.token))
    try:
        await wait_for(lambda: client.is_ready() or running.done())
        if running.done():
            running.result()
        yield client
    finally:
        await client.close()
        await asyncio.gather(running, return_exceptions=True)
        discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = base, gateway


async def wait_for(condition: Callable[[], object], timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class RawClient:
    """A client that checks nothing: sends what it is told as the bot, and returns status and body."""

    def __init__(self, fake: FakeDiscord, http: aiohttp.ClientSession) -> None:
        self.fake = fake
        self.http = http

    async def send(
        self, method: str, path: str, body: Any = None, files: dict[str, bytes] | None = None
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bot {self.fake.token}", "User-Agent": "DiscordBot (test, 1)"}
        arguments: dict[str, Any] = {"json": body}
        if files:
            form = aiohttp.FormData(quote_fields=False)
            form.add_field("payload_json", json.dumps(body))
            for number, (name, content) in enumerate(files.items()):
                form.add_field(f"files[{number}]", content, filename=name)
            arguments = {"data": form}
        async with self.http.request(method, self.fake.url + path, headers=headers, **arguments) as response:
            raw = await response.read()
            if response.content_type != "application/json" or not raw:
                return response.status, raw.decode()
            return response.status, json.loads(raw)

    async def code(self, method: str, path: str, body: Any = None, files: dict[str, bytes] | None = None) -> int:
        """Discord's error code, 0 if the request was accepted."""
        status, answer = await self.send(method, path, body, files)
        return 0 if status < 300 else answer["code"]
