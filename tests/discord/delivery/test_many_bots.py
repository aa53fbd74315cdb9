"""Two applications on one database, one of them in two shards: random traffic with joins, leaves and outages.

Both bots are in the same guilds with the same members, whose ids are alike. What each member should have with each bot
is kept in a dict, and compared with what is stored after each thing that ends dialogs, or must not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models import queries
from models.database import Database
from models.queries.inspection import dialog_lines
from models.types import DialogKey
from tests.discord.harness import World, world
from tests.fakes.discord.server import FakeDiscord, Guild, User
from tests.fakes.discord.state import Channel, snowflake
from tests.selection import POSTGRES

STEPS, SECONDS = 12, 300.0
"""Of the short form, and of the long one."""
SETTINGS = {"CLEANUP_INTERVAL": "1s"}  # the cleanup runs all the time, and so does the search for dead processes
NUM_GUILDS, NUM_USERS = 6, 2
Pairs = list[tuple[str, str]]


def add_guild(discord: FakeDiscord, guild_id: int) -> Guild:
    """A guild of this id, which another application's Discord has as well."""
    guild = Guild(f"guild {guild_id}", discord.bot, id=guild_id)
    guild.channels.append(Channel("general", guild))
    discord.rest.guilds[guild.id] = guild
    discord.rest.directory.add(guild.channel)
    return guild


def add_user(discord: FakeDiscord, user_id: int) -> User:
    user = User("ann", id=user_id)
    discord.rest.users[user.id] = user
    return user


@dataclass
class Application:
    """One application: its Discord, its processes, and what members should have with it."""

    here: World
    guilds: dict[int, Guild]
    users: dict[int, User]
    shards: int = 1
    expected: dict[tuple[int, int], Pairs] = field(default_factory=dict)

    @property
    def id(self) -> int:
        return self.here.discord.bot.id

    async def start(self, shards: int) -> None:
        self.shards = shards
        for index in range(shards):
            await self.start_shard(index)

    async def start_shard(self, index: int) -> None:
        split = {"SHARD_COUNT": str(self.shards), "SHARD_ID": str(index)} if self.shards > 1 else {}
        await self.here.start_bot(**split)
        log = self.here.bot
        await self.here.discord.until(lambda: "on Discord" in log.log())

    def process_of(self, guild_id: int) -> int:
        """The place in the list of the running process whose shard has the guild."""
        wanted = f'"shard": "{(guild_id >> 22) % self.shards + 1} of {self.shards}"'
        return next(i for i, bot in enumerate(self.here.bots) if bot.running and wanted in bot.log())

    async def stop(self) -> None:
        for bot in self.here.bots:
            if bot.running:
                assert await bot.stop() == 0
        self.here.bots = []

    async def stored(self) -> dict[tuple[int, int], Pairs]:
        """The open dialogs of this application, by guild and member."""
        database = Database(self.here.database_url, application_id=self.id, guarded=True)
        found: dict[tuple[int, int], Pairs] = {}
        async with database.read() as session:
            for line in await dialog_lines(session, limit=9999):
                if line.ended_at is None:
                    key = DialogKey(line.guild_id, line.user_id)
                    pairs = await queries.history(session, key=key, limit=99)
                    found[line.guild_id, line.user_id] = [(pair.user, pair.reply) for pair in pairs]
        await database.close()
        return found


class Traffic:
    """Random acts of one seed. Each returns once its effect is stored; `check` compares all applications."""

    def __init__(self, applications: list[Application], seed: int) -> None:
        self.applications = applications
        self.random = random.Random(seed)
        self.acts: Counter[str] = Counter()
        self.checks = 0
        self.number = 0

    async def run(self, *, steps: int, seconds: float) -> None:
        acts = {
            self.chat: 60, self.reset: 6, self.leave: 6, self.join: 8, self.outage: 5, self.new_session: 4,
            self.leave_while_away: 5, self.other_number_of_shards: 3,
        }  # fmt: skip
        until = time.monotonic() + seconds
        for _ in range(steps):
            if time.monotonic() > until:
                break
            [act] = self.random.choices(list(acts), list(acts.values()))
            application = self.random.choice(self.applications)
            if await act(application):
                self.acts[act.__name__] += 1
            if act != self.chat:
                await self.check()
        await self.check()

    async def check(self) -> None:
        """Whatever was done to one, all have what they should have: nothing more ended, and nothing less."""
        for application in self.applications:
            until = time.monotonic() + 30
            while (stored := await application.stored()) != (expected := application.expected):
                assert set(stored) >= set(expected), f"ended: {set(expected) - set(stored)}"
                assert time.monotonic() < until, f"not ended: {set(stored) - set(expected)}"
                await asyncio.sleep(0.05)
        self.checks += 1

    def guild_of(self, application: Application, *, joined: bool) -> Guild | None:
        found = [each for each in application.guilds.values() if each.joined is joined and not each.unavailable]
        return self.random.choice(found) if found else None

    def forget(self, application: Application, guild: Guild) -> None:
        for key in [key for key in application.expected if key[0] == guild.id]:
            del application.expected[key]

    async def chat(self, application: Application) -> bool:
        guild = self.guild_of(application, joined=True)
        if guild is None:
            return False
        user = self.random.choice(list(application.users.values()))
        self.number += 1
        asked = await application.here.ask(guild, user, f"message {self.number}")
        pairs = application.expected.setdefault((guild.id, user.id), [])
        pairs.append((f"message {self.number}", asked.reply()))
        return True

    async def reset(self, application: Application) -> bool:
        guild = self.guild_of(application, joined=True)
        if guild is None:
            return False
        user = self.random.choice(list(application.users.values()))
        await application.here.use(guild, user, "reset")
        application.expected.pop((guild.id, user.id), None)
        return True

    async def leave(self, application: Application) -> bool:
        guild = self.guild_of(application, joined=True)
        if guild is None:
            return False
        await application.here.discord.remove(guild)
        self.forget(application, guild)
        return True

    async def join(self, application: Application) -> bool:
        guild = self.guild_of(application, joined=False)
        if guild is None:
            return False
        await application.here.discord.join(guild)
        return True

    async def outage(self, application: Application) -> bool:
        """The guild is away for a moment; maybe a process starts anew in between, whose READY names it all the same."""
        guild = self.guild_of(application, joined=True)
        if guild is None:
            return False
        await application.here.discord.outage(guild)
        if self.random.random() < 0.5:
            await self.restart(application, guild.id)
        await self.check()
        await application.here.discord.join(guild)
        return True

    async def new_session(self, application: Application) -> bool:
        """Discord forgets the sessions: each process gets another READY, with the guilds of its own shard."""
        running = len(application.here.discord.gateway.connected)
        identifies = application.here.discord.gateway.num_identifies
        await application.here.discord.gateway.close(4000, forget=True)
        gateway = application.here.discord.gateway
        await application.here.discord.until(
            lambda: gateway.num_identifies >= identifies + running and len(gateway.connected) >= running, timeout=40
        )
        return True

    async def leave_while_away(self, application: Application) -> bool:
        guild = self.guild_of(application, joined=True)
        if guild is None:
            return False
        index = application.process_of(guild.id)
        assert await application.here.bots.pop(index).stop() == 0
        guild.joined = False
        self.forget(application, guild)
        await application.start_shard((guild.id >> 22) % application.shards)
        return True

    async def restart(self, application: Application, guild_id: int) -> None:
        index = application.process_of(guild_id)
        assert await application.here.bots.pop(index).stop() == 0
        await application.start_shard((guild_id >> 22) % application.shards)

    async def other_number_of_shards(self, application: Application) -> bool:
        await application.stop()
        await application.start(self.random.choice([each for each in (1, 2, 3) if each != application.shards]))
        return True


@asynccontextmanager
async def two_applications(database_url: str, folder: Path) -> AsyncIterator[list[Application]]:
    first = snowflake()
    guild_ids = [first + (number << 22) for number in range(NUM_GUILDS)]  # of every shard some
    user_ids = [snowflake() for _ in range(NUM_USERS)]
    applications: list[Application] = []
    made: list[tuple[dict[int, Guild], dict[int, User]]] = []

    def fill(discord: FakeDiscord) -> None:
        guilds = {each: add_guild(discord, each) for each in guild_ids}
        users = {each: add_user(discord, each) for each in user_ids}
        made.append((guilds, users))

    async with AsyncExitStack() as stack:
        for shards in (2, 1):
            split = {"SHARD_COUNT": "2", "SHARD_ID": "0"} if shards == 2 else {}
            own = folder / f"shards-{shards}"
            own.mkdir()
            here = await stack.enter_async_context(world(database_url, own, before=fill, **SETTINGS, **split))
            here.settings = dict(SETTINGS)
            applications.append(Application(here, *made[-1], shards=shards))
        await applications[0].start_shard(1)
        yield applications


async def run(
    database_url: str, folder: Path, seed: int, *, steps: int = 1_000_000, seconds: float = 1_000_000
) -> Traffic:
    async with two_applications(database_url, folder) as applications:
        traffic = Traffic(applications, seed)
        await traffic.run(steps=steps, seconds=seconds)
        for application in applications:
            for bot in application.here.bots:
                log = bot.log()
                assert "Traceback" not in log, log[-4000:]
                assert "StatementRefused" not in log
        return traffic


@POSTGRES
async def test_b26_no_bot_and_no_shard_touches_the_dialogs_of_another(database_url: str, tmp_path: Path) -> None:
    traffic = await run(database_url, tmp_path, 26, steps=STEPS)
    assert traffic.acts["chat"] > 3
    assert traffic.checks > 2


@pytest.mark.long
async def test_b26_no_bot_and_no_shard_touches_them_in_five_minutes(database_url: str, tmp_path: Path) -> None:
    traffic = await run(database_url, tmp_path, 2026, seconds=SECONDS)
    print(dict(traffic.acts), traffic.checks)  # noqa: T201 - read with -s
    assert min(traffic.acts.values()) > 0
    assert len(traffic.acts) == 8
