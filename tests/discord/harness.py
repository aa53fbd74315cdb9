"""Runs the bot as its own process between a fake Discord and a fake engine. What is asked is in the tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from models.database import Database
from models.queries.application import started_applications
from tests.bot.metric_values import Page
from tests.discord.bot_process import COMMAND, ROOT, BotProcess, ForkedBot
from tests.fakes.discord.server import FakeDiscord, Guild, Interaction, Message, Place, User
from tests.fakes.engine import FakeEngine

__all__ = ["COMMAND", "ROOT", "BotProcess", "World", "bot_database", "free_port", "page", "world"]


async def bot_database(url: str) -> Database:
    """The database as the only bot sees that was started with it."""
    database = Database(url)
    async with database.read() as session:
        [database.application_id] = await started_applications(session)
    return database


@dataclass
class World:
    """The surroundings of the bot (Discord, an engine, a database) and its runs so far; `bot` is the latest."""

    discord: FakeDiscord
    engine: FakeEngine
    database_url: str
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    bots: list[BotProcess] = field(default_factory=list)
    make_bot: Callable[[dict[str, str], Path], BotProcess] = ForkedBot
    """`BotProcess` for a new Python process, whose imports take seconds."""
    constants: Mapping[str, object] = field(default_factory=dict)
    """Other values for constants of the program; only with `ForkedBot`."""

    @property
    def bot(self) -> BotProcess:
        return self.bots[-1]

    def environment(self, **settings: str) -> dict[str, str]:
        given = {f"GUILDLLAMA_{name}": value for name, value in {**self.settings, **settings}.items()}
        return {
            **self.discord.environment(),
            "GUILDLLAMA_DATABASE_URL": self.database_url,
            "GUILDLLAMA_ENGINE_URL": self.engine.url,
            "GUILDLLAMA_LOG_FORMAT": "json",
            **given,
        }

    async def start_bot(self, *, ready: bool = True, host: str = "", **settings: str) -> BotProcess:
        """Start a bot; with `host`, one that believes to run on the host of this name."""
        running = sum(bot.running for bot in self.bots)
        # The gateway may not have noticed yet that a bot was killed.
        await self.discord.until(lambda: len(self.discord.gateway.connected) <= running)
        bot = self.make_bot(self.environment(**settings), self.folder)
        if isinstance(bot, ForkedBot):
            bot.host, bot.constants = host, self.constants
        self.bots.append(bot)
        await bot.start()
        if ready:
            try:
                await self.discord.until_ready(running + 1)
            except TimeoutError:
                raise AssertionError(f"the bot is not on the gateway: {bot.log()[-3000:]}") from None
        return bot

    async def member(self, name: str = "ann", *, manager: bool = False) -> tuple[Guild, User]:
        """A new guild that the bot is in and a member of it, so that tests do not see each other's data."""
        user = self.discord.user(name)
        guild = self.discord.guild(f"{name}'s guild", managers=(user,) if manager else ())
        await self.discord.join(guild)
        return guild, user

    async def admin_and_member(self) -> tuple[Guild, User, User]:
        """A new guild, an admin of it and a member."""
        guild, boss = await self.member("boss", manager=True)
        return guild, boss, self.discord.user("ann")

    async def mention(self, where: Place, user: User, text: str, **options: Any) -> Message:
        """Mention the bot in a message; `options` are those of `discord.say`."""
        return await self.discord.say(where, user, f"<@{self.discord.bot.id}> {text}", **options)

    async def ask(self, guild: Place, user: User, text: str, **options: Any) -> Interaction:
        """Use /chat and wait for the complete reply."""
        asked = await self.discord.chat(guild, user, text, **options)
        await self.discord.done(asked)
        return asked

    async def use(self, guild: Place, user: User, command: str, /, **options: Any) -> Interaction:
        """Use a command and wait for the complete response."""
        used = await self.discord.command(guild, user, command, **options)
        await self.discord.done(used)
        return used

    async def until(self, holds: Callable[[], Awaitable[bool]], timeout: float = 20.0) -> None:
        """Wait until this holds of what a command answers or the database has. It is asked every 50 ms."""
        async with asyncio.timeout(timeout):
            while not await holds():  # noqa: ASYNC110 - neither tells of a change
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """The database as the bot sees it."""
        opened = await bot_database(self.database_url)
        try:
            yield opened
        finally:
            await opened.close()


@asynccontextmanager
async def world(
    database_url: str,
    folder: Path,
    *,
    ready: bool = True,
    before: Callable[[FakeDiscord], object] = lambda discord: None,
    make_bot: Callable[[dict[str, str], Path], BotProcess] = ForkedBot,
    constants: Mapping[str, object] | None = None,
    **settings: str,
) -> AsyncIterator[World]:
    """A world with a running bot. At the end no process is left, and no request broke Discord's rules."""
    async with FakeDiscord() as discord, FakeEngine() as engine:
        here = World(discord, engine, database_url, folder, settings, make_bot=make_bot, constants=constants or {})
        before(discord)
        try:
            await here.start_bot(ready=ready)
            yield here
        finally:
            for bot in here.bots:
                await bot.kill()
        assert "\n".join(discord.violations) == ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


async def page(port: int) -> Page:
    """What Prometheus would scrape now."""
    await asyncio.sleep(1.05)  # a page is shown to others for a second
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert response.status == 200
        return Page(await response.text())
