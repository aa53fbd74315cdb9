"""Runs the bot as its own process between a fake Discord and a fake engine.

Knows how `guildllama run` is started, observed and stopped. What is asked and expected is in the tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.discord.server import FakeDiscord, Guild, Interaction, Place, User
from tests.fakes.engine import FakeEngine

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "bot", "run")


def on_host(name: str) -> tuple[str, ...]:
    """The command of a bot that believes to run on the host of this name."""
    code = f"import socket; socket.gethostname = lambda: {name!r}; from bot.cli import main; main()"
    return (sys.executable, "-c", code, "run")


class BotProcess:
    """One run of the bot. Its output goes to a file, which `log()` reads."""

    def __init__(self, environment: dict[str, str], folder: Path, *, command: tuple[str, ...] = COMMAND) -> None:
        self.environment = environment
        self.folder = folder
        self.command = command
        self.process: asyncio.subprocess.Process | None = None
        self.log_file = folder / f"bot-{time.monotonic_ns()}.log"

    async def start(self) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("GUILDLLAMA_", "PYTEST_"))
        }
        path = os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH"))))
        with self.log_file.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=self.folder,
                env={**inherited, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "", **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        assert self.process
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def wait(self, timeout: float = 30.0) -> int:
        assert self.process
        async with asyncio.timeout(timeout):
            return await self.process.wait()

    async def stop(self, timeout: float = 40.0) -> int:
        self.send(signal.SIGTERM)
        return await self.wait(timeout)

    async def kill(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


@dataclass
class World:
    """The surroundings of the bot (Discord, an engine, a database) and its runs so far; `bot` is the latest."""

    discord: FakeDiscord
    engine: FakeEngine
    database_url: str
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    bots: list[BotProcess] = field(default_factory=list)
    make_bot: Callable[[dict[str, str], Path], BotProcess] | None = None
    """Makes bots in another way than as a new Python process."""

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

    async def start_bot(self, *, ready: bool = True, command: tuple[str, ...] = COMMAND, **settings: str) -> BotProcess:
        bots = len(self.discord.gateway.connected)
        environment = self.environment(**settings)
        bot = (
            BotProcess(environment, self.folder, command=command)
            if self.make_bot is None
            else self.make_bot(environment, self.folder)
        )
        self.bots.append(bot)
        await bot.start()
        if ready:
            try:
                await self.discord.until_ready(bots + 1)
            except TimeoutError:
                raise AssertionError(f"the bot is not on the gateway: {bot.log()[-3000:]}") from None
        return bot

    async def member(self, name: str = "ann", *, manager: bool = False) -> tuple[Guild, User]:
        """A new guild that the bot is in and a member of it, so that tests do not see each other's data."""
        user = self.discord.user(name)
        guild = self.discord.guild(f"{name}'s guild", managers=(user,) if manager else ())
        await self.discord.join(guild)
        return guild, user

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


@asynccontextmanager
async def world(
    database_url: str,
    folder: Path,
    *,
    ready: bool = True,
    before: Callable[[FakeDiscord], object] = lambda discord: None,
    make_bot: Callable[[dict[str, str], Path], BotProcess] | None = None,
    **settings: str,
) -> AsyncIterator[World]:
    """A world with a running bot. At the end no process is left, and no request broke Discord's rules."""
    async with FakeDiscord() as discord, FakeEngine() as engine:
        here = World(discord, engine, database_url, folder, settings, make_bot=make_bot)
        before(discord)
        try:
            await here.start_bot(ready=ready)
            yield here
        finally:
            for bot in here.bots:
                await bot.kill()
        assert "\n".join(discord.violations) == ""
