"""Several processes that share the shards of one application, while processes are killed, stopped and started anew.

Members use /chat and mention the bot. What no session heard, the member says again, as people do; what a process has
acknowledged must come to an end that the member sees, and no message may get two answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import text

from models import queries
from models.queries.inspection import dialog_lines
from models.types import DialogKey
from tests.discord.bot_process import BotProcess
from tests.discord.harness import World, world
from tests.fakes.discord.server import FakeDiscord, Guild, User
from tests.fakes.discord.state import Channel, snowflake
from tests.fakes.engine.script import Request, Script

QUICK = {
    "bot.run_discord.IDENTIFY_SECONDS": 0.02,
    "bot.cluster.leases.INTERVAL": 0.5,
    "bot.chat.recovery.INTERVAL": 3.0,
}
SOON_STOPPED = {"bot.cluster.leases.STOPPED_AFTER": 2.0, "bot.chat.recovery.INTERVAL": 1.0}
NO_END = "acknowledged and never ended"
"""Its process was killed between the acknowledgement and the begin transaction: nothing of it is stored."""
RESTARTED = "I was restarted while I was writing this answer. Please ask again."
LOST_PLACE = "I was restarted before I came to your message. Please ask again."
LEADS = "this process leads: it cleans up and registers the commands"
SETTINGS = {"CLEANUP_INTERVAL": "1s", "SHUTDOWN_GRACE": "2s"}


def add_guilds(discord: FakeDiscord, count: int) -> list[Guild]:
    """So many guilds, whose ids belong to shards in turn."""
    first = snowflake()
    guilds = []
    for number in range(count):
        guild = Guild(f"guild {number}", discord.bot, id=first + (number << 22))
        guild.channels.append(Channel("general", guild))
        discord.rest.guilds[guild.id] = guild
        discord.rest.directory.add(guild.channel)
        guilds.append(guild)
    return guilds


def shards_online(here: World, count: int) -> set[int]:
    return {session.shard[0] for session in here.discord.gateway.connected if session.shard[1] == count}


async def all_online(here: World, count: int, timeout: float = 40.0) -> None:
    await here.discord.until(lambda: len(shards_online(here, count)) == count, timeout=timeout)


async def shared_out(here: World, share: int) -> None:
    """Wait until each process has its share, and the sessions of shards that were given up have ended."""

    def done() -> bool:
        last = [(said(bot, "shards of this process") or [{"shards": []}])[-1] for bot in here.bots if bot.running]
        return all(len(line["shards"]) == share for line in last)

    await here.discord.until(done, timeout=60)
    await all_online(here, share * sum(bot.running for bot in here.bots))
    await asyncio.sleep(3)


@asynccontextmanager
async def processes(
    url: str, folder: Path, *, shards: int, guilds: int, constants: dict[str, float] = QUICK, **more: str
) -> AsyncIterator[tuple[World, list[Guild]]]:
    made: list[Guild] = []
    async with world(
        url, folder, ready=False, before=lambda discord: made.extend(add_guilds(discord, guilds)), constants=constants,
        SHARDS=f"auto/{shards}", **{**SETTINGS, **more},
    ) as here:  # fmt: skip
        await all_online(here, shards)
        yield here, made


async def start_another(here: World) -> BotProcess:
    bot = here.make_bot(here.environment(), here.folder)
    bot.constants = here.constants
    here.bots.append(bot)
    await bot.start()
    return bot


def said(bot: BotProcess, event: str) -> list[dict]:
    lines = [json.loads(line) for line in bot.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


async def test_one_process_has_several_shards(sqlite_url: str, tmp_path: Path) -> None:
    made: list[Guild] = []
    settings = {**SETTINGS, "SHARDS": "0-2/3"}
    async with world(
        sqlite_url, tmp_path, ready=False, before=lambda discord: made.extend(add_guilds(discord, 3)), constants=QUICK,
        **settings,
    ) as here:  # fmt: skip
        await all_online(here, 3)
        await here.discord.until(lambda: bool(here.discord.rest.commands))
        ann = here.discord.user("ann")
        asked = await asyncio.gather(*(here.ask(guild, ann, "hello") for guild in made))
        assert [each.reply() for each in asked] == ["You said: hello"] * 3
        assert len(said(here.bot, "commands were registered")) == 1
        assert len(here.discord.gateway.connected) == 3
        assert await here.bot.stop() == 0
        assert "Traceback" not in here.bot.log()


async def test_two_processes_share_the_shards_and_one_takes_over(postgres_url: str, tmp_path: Path) -> None:
    async with processes(postgres_url, tmp_path, shards=2, guilds=4) as (here, guilds):
        ann = here.discord.user("ann")
        first = here.bot
        await here.discord.until(lambda: bool(said(first, "commands were registered")))
        second = await start_another(here)
        await here.discord.until(lambda: len(said(second, "on Discord")) == 1, timeout=30)
        await all_online(here, 2)
        assert len(said(second, "commands were registered")) == 0, "the leader has done so"
        for guild in guilds:
            await here.ask(guild, ann, "hello")
        await first.kill()
        await all_online(here, 2)
        for guild in guilds:
            asked = await here.ask(guild, ann, "again")
            assert asked.reply() == "You said: again"
        await here.discord.until(lambda: bool(said(second, "cleanup done")), timeout=30)
        assert len(said(second, LEADS)) == 1
        assert await second.stop() == 0
        for bot in (first, second):
            assert "Traceback" not in bot.log(), bot.log()[-3000:]


@pytest.mark.long
async def test_a_leader_that_was_stopped_does_not_act_on_what_it_no_longer_holds(
    postgres_url: str, tmp_path: Path
) -> None:
    async with processes(postgres_url, tmp_path, shards=4, guilds=8, constants={**QUICK, **SOON_STOPPED}) as (
        here,
        guilds,
    ):
        ann, first = here.discord.user("ann"), here.bot
        second = await start_another(here)
        await here.discord.until(lambda: len(said(second, "on Discord")) >= 2, timeout=40)
        await here.discord.until(lambda: bool(said(first, "cleanup done")), timeout=30)
        os.kill(first.process.pid, signal.SIGSTOP)
        # Heartbeats are overdue after four intervals; then its connection is ended.
        await here.discord.until(lambda: bool(said(second, "cleanup done")), timeout=60)
        await here.discord.until(
            lambda: any(len(line["shards"]) == 4 for line in said(second, "shards of this process")), timeout=30
        )
        await asyncio.sleep(5)
        cleanups = len(said(first, "cleanup done"))
        os.kill(first.process.pid, signal.SIGCONT)
        await here.discord.until(lambda: bool(said(first, "the leases cannot be held now")), timeout=30)
        asked = await asyncio.gather(*(here.ask(guild, ann, "hello") for guild in guilds))
        assert {each.reply() for each in asked} == {"You said: hello"}
        await asyncio.sleep(3)
        assert len(said(first, "cleanup done")) == cleanups, "it cleans up no more"
        assert len(said(first, LEADS)) == 1


@dataclass
class Figures:
    acknowledged_ms: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    again: int = 0
    kills: int = 0
    takeovers_s: list[float] = field(default_factory=list)


class Traffic:
    """Members who ask one thing after the other, each in a guild of their own."""

    def __init__(self, here: World, figures: Figures) -> None:
        self.here = here
        self.figures = figures
        self.ended = False
        self.never_ended: set[int] = set()
        self.asked: dict[tuple[int, str], list] = {}

    async def member(self, guild: Guild, user: User, pause: float) -> None:
        number = 0
        await asyncio.sleep(random.uniform(0, pause))
        while not self.ended:
            number += 1
            await self.ask_until_heard(guild, user, f"message {number}")
            await asyncio.sleep(random.uniform(0.5, 1.5) * pause)

    async def ask_until_heard(self, guild: Guild, user: User, said: str) -> None:
        attempts = self.asked.setdefault((guild.id, said), [])
        while True:
            began = time.monotonic()
            asked = await self.here.discord.chat(guild, user, said)
            attempts.append(asked)
            if not await self.acknowledged(asked):
                self.figures.again += 1  # Discord says: the application did not respond
                if self.ended:
                    return
                await asyncio.sleep(0.3)
                continue
            self.figures.acknowledged_ms.append((time.monotonic() - began) * 1000)
            try:
                await self.here.discord.done(asked, timeout=45)
            except TimeoutError:  # its process was killed after the acknowledgement, before it could store anything
                self.figures.outcomes[NO_END] += 1
                self.never_ended.add(asked.id)
                return
            reply = asked.reply()
            self.figures.outcomes["answered" if reply == f"You said: {said}" else reply] += 1
            return

    async def acknowledged(self, asked) -> bool:
        for _ in range(150):
            if asked.callback_type is not None:
                return True
            await asyncio.sleep(0.02)
        return False


async def chaos(
    url: str, folder: Path, *, seconds: float, every: float, num_processes: int, shards: int, guilds: int, pause: float
) -> Figures:
    figures = Figures()
    async with processes(url, folder, shards=shards, guilds=guilds, CLEANUP_INTERVAL="5s") as (here, made):
        for _ in range(num_processes - 1):
            await start_another(here)
        await shared_out(here, shards // num_processes)
        here.engine.default = slowly
        traffic = Traffic(here, figures)
        users = [here.discord.user(f"user{number}") for number in range(guilds)]
        members = [asyncio.create_task(traffic.member(g, u, pause)) for g, u in zip(made, users, strict=True)]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(every)
            victim = random.choice([bot for bot in here.bots if bot.running])
            await victim.kill()
            figures.kills += 1
            killed = time.monotonic()
            await asyncio.sleep(0.1)
            await all_online(here, shards)
            figures.takeovers_s.append(time.monotonic() - killed)
            await start_another(here)
        traffic.ended = True
        await asyncio.wait_for(asyncio.gather(*members), 120)
        await self_check(here, traffic)
    return figures


def slowly(request: Request) -> Script:
    return Script(deltas=("You ", "said: ", request.last), pace=0.1)


async def self_check(here: World, traffic: Traffic) -> None:
    """Every reply that a member saw is stored, in one turn; no question has two."""
    async with here.database() as database, database.read() as session:
        stored: Counter[tuple[int, str]] = Counter()
        for line in await dialog_lines(session, limit=99_999):
            pairs = await queries.history(session, key=DialogKey(line.guild_id, line.user_id), limit=9999)
            stored.update((line.guild_id, pair.user) for pair in pairs if pair.reply is not None)
        begun = set(await session.scalars(text("SELECT interaction_id FROM turns WHERE interaction_id IS NOT NULL")))
    assert not begun & traffic.never_ended, "a turn that was begun has no end that its member can see"
    twice = {key: count for key, count in stored.items() if count > max(1, len(traffic.asked.get(key, [])))}
    assert not twice
    for key, attempts in traffic.asked.items():
        answered = [
            each for each in attempts if each.callback_type is not None and each.reply() == f"You said: {key[1]}"
        ]
        assert stored[key] >= len(answered), f"a reply that was shown is not stored: {key}"
        for each in attempts:
            assert len(each.messages()) <= 1, f"two answers: {key}"
    for bot in here.bots:
        assert "Traceback" not in bot.log(), bot.log()[-4000:]


@pytest.mark.long
async def test_processes_that_are_killed_lose_nothing_and_say_nothing_twice(postgres_url: str, tmp_path: Path) -> None:
    seconds = float(os.environ.get("SHARDS_TEST_SECONDS", "60"))
    guilds = int(os.environ.get("SHARDS_TEST_GUILDS", "200"))
    every = float(os.environ.get("SHARDS_TEST_EVERY", "6"))
    figures = await chaos(
        postgres_url, tmp_path, seconds=seconds, every=every, num_processes=4, shards=16, guilds=guilds, pause=20.0
    )
    times = sorted(figures.acknowledged_ms)
    found = {
        "kills": figures.kills,
        "takeovers_s": [round(each, 1) for each in figures.takeovers_s],
        "acknowledged_p50_ms": round(statistics.median(times)),
        "acknowledged_p99_ms": round(times[int(len(times) * 0.99)]),
        "outcomes": dict(figures.outcomes),
        "said_again": figures.again,
    }
    (tmp_path / "figures.json").write_text(json.dumps(found))
    sys.stdout.write(f"{found}\n")
    assert figures.kills >= 3
    assert figures.outcomes["answered"] > len(times) * 0.8
    assert set(figures.outcomes) <= {"answered", RESTARTED, LOST_PLACE, NO_END}
