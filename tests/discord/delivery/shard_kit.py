"""Several processes that share the shards of one application, members who use /chat there, and kills.

What no session heard, a member says again, as people do. Each acknowledgement is timed by the fake Discord, from the
event to the callback. Knows no limit: what is good enough is in the test and in tests/bench/shards.py.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text

from models import queries
from models.queries.inspection import dialog_lines
from models.types import DialogKey
from tests.discord.bot_process import BotProcess, ForkedBot
from tests.discord.harness import World, world
from tests.fakes.discord.gateway import Session
from tests.fakes.discord.server import FakeDiscord, Guild, Interaction, User
from tests.fakes.discord.state import Channel, snowflake
from tests.fakes.engine.script import Request, Script

QUICK = {
    "bot.run_discord.IDENTIFY_SECONDS": 0.02,
    "bot.cluster.leases.INTERVAL": 0.5,
    "bot.chat.recovery.INTERVAL": 3.0,
}
SETTINGS = {"CLEANUP_INTERVAL": "1s", "SHUTDOWN_GRACE": "2s"}
DEADLINE = 3.0
"""Seconds in which an interaction must be acknowledged."""
ENDED_WITHIN = 60.0
"""Seconds in which an acknowledged question must have come to its end, whatever was killed."""
ANSWERED, NO_END = "answered", "acknowledged and never ended"


def add_guilds(discord: FakeDiscord, count: int) -> list[Guild]:
    """This number of guilds. Their ids belong to the shards in turn."""
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
    async with asyncio.timeout(timeout):
        while len(shards_online(here, count)) < count:  # noqa: ASYNC110 - `until` would wake with every request
            await asyncio.sleep(0.02)


async def shared_out(here: World, share: int) -> None:
    """Wait until each process has its share, and the sessions of shards that were given up have ended."""

    def done() -> bool:
        last = [(said(bot, "shards of this process") or [{"shards": []}])[-1] for bot in here.bots if bot.running]
        return all(len(line["shards"]) == share for line in last)

    async with asyncio.timeout(60):
        while not done():  # noqa: ASYNC110 - the log tells of no change
            await asyncio.sleep(0.2)
    await all_online(here, share * sum(bot.running for bot in here.bots))
    await asyncio.sleep(3)


@asynccontextmanager
async def processes(
    url: str,
    folder: Path,
    *,
    shards: int,
    guilds: int,
    constants: Mapping[str, float] = QUICK,
    make_bot: type[BotProcess] = ForkedBot,
    max_concurrency: int = 1,
    **more: str,
) -> AsyncIterator[tuple[World, list[Guild]]]:
    """A first process that has all shards of these guilds."""
    made: list[Guild] = []

    def prepare(discord: FakeDiscord) -> None:
        discord.rest.max_concurrency = max_concurrency
        made.extend(add_guilds(discord, guilds))

    async with world(
        url, folder, ready=False, before=prepare, constants=constants, make_bot=make_bot, SHARDS=f"auto/{shards}",
        **{**SETTINGS, **more},
    ) as here:  # fmt: skip
        await all_online(here, shards)
        yield here, made


async def start_another(here: World) -> BotProcess:
    bot = here.make_bot(here.environment(), here.folder)
    if isinstance(bot, ForkedBot):
        bot.constants = here.constants
    here.bots.append(bot)
    await bot.start()
    return bot


def said(bot: BotProcess, event: str) -> list[dict]:
    """The lines of a process's log that tell of this."""
    return [line for line in map(_parsed, bot.log().splitlines()) if line.get("event") == event]


def _parsed(line: str) -> dict:
    try:
        found = json.loads(line) if line.startswith("{") else {}
    except ValueError:  # cut off by a kill
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Acknowledgement:
    """One use of /chat that a session heard. `ms` is None if Discord was not answered in time."""

    at: float
    """When Discord sent it, on the monotonic clock."""
    ms: float | None


@dataclass
class Figures:
    """What was seen. Every use of /chat is in exactly one of `acknowledged`, `not_heard` and `lost_with_process`."""

    acknowledged: list[Acknowledgement] = field(default_factory=list)
    not_heard: int = 0
    """No session had the shard: nothing of ours could answer."""
    lost_with_process: int = 0
    """The session's process was killed before it acknowledged."""
    outcomes: Counter[str] = field(default_factory=Counter)
    kills: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    takeovers_s: list[float] = field(default_factory=list)

    def times_ms(self) -> list[float]:
        """Sorted; one that came too late counts as the whole time that Discord allows."""
        return sorted(DEADLINE * 1000 if each.ms is None else each.ms for each in self.acknowledged)


class Traffic:
    """Members who use /chat, `rate` times a second in all, at random moments, each in a guild of their own."""

    def __init__(self, here: World, guilds: list[Guild], figures: Figures, rate: float, seed: int = 1) -> None:
        self.here = here
        self.figures = figures
        self.rate = rate
        self.ended = False
        self.never_ended: set[int] = set()
        self.asked: dict[tuple[int, str], list[Interaction]] = {}
        self._chance = random.Random(seed)
        self._idle = [(guild, here.discord.user(f"user{number}")) for number, guild in enumerate(guilds)]
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ask until `ended`, then wait for what is under way. The arrivals do not wait for answers."""
        number = 0
        due = time.monotonic()
        while not self.ended:
            due += self._chance.expovariate(self.rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            number += 1
            asker = self._idle.pop(self._chance.randrange(len(self._idle)))
            task = asyncio.create_task(self._ask(*asker, f"message {number}"))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        await asyncio.gather(*self._asking)

    async def _ask(self, guild: Guild, user: User, said: str) -> None:
        try:
            await self.ask_until_heard(guild, user, said)
        finally:
            self._idle.append((guild, user))

    async def ask_until_heard(self, guild: Guild, user: User, said: str) -> None:
        attempts = self.asked.setdefault((guild.id, said), [])
        while True:
            heard_by = [each for each in self.here.discord.gateway.connected if each.has(guild.id)]
            at = time.monotonic()
            asked = await self.here.discord.chat(guild, user, said)
            attempts.append(asked)
            if await self._acknowledged(asked, at, heard_by):
                break
            if self.ended:
                return
            await asyncio.sleep(0.3)
        until = time.monotonic() + ENDED_WITHIN
        while not asked.done():
            if time.monotonic() > until:
                self.figures.outcomes[NO_END] += 1
                self.never_ended.add(asked.id)
                return
            await asyncio.sleep(0.05)
        reply = asked.reply()
        self.figures.outcomes[ANSWERED if reply == f"You said: {said}" else reply] += 1

    async def _acknowledged(self, asked: Interaction, at: float, heard_by: list[Session]) -> bool:
        figures = self.figures
        until = at + DEADLINE
        while asked.acknowledged_at is None and time.monotonic() < until:  # noqa: ASYNC110 - see `all_online`
            await asyncio.sleep(0.02)
        if asked.acknowledged_at is not None:
            figures.acknowledged.append(Acknowledgement(at, (asked.acknowledged_at - asked.created_at) * 1000))
            return True
        if not heard_by:
            figures.not_heard += 1
        elif any(each.socket is not None for each in heard_by):
            figures.acknowledged.append(Acknowledgement(at, None))  # a living process was too slow
        else:
            figures.lost_with_process += 1
        return False


def slowly(request: Request) -> Script:
    return Script(deltas=("You ", "said: ", request.last), pace=0.1)


async def kill_again_and_again(here: World, figures: Figures, *, seconds: float, every: float, shards: int) -> None:
    """Kill a process now and then; a second later start another one, as a supervisor does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        due = time.monotonic() + every
        await asyncio.sleep(every * 0.9)
        victim = random.choice([bot for bot in here.bots if bot.running])
        await victim.kill()
        figures.kills.append(killed := time.monotonic())
        await asyncio.sleep(0.1)
        online = asyncio.create_task(all_online(here, shards))
        await asyncio.sleep(0.9)
        figures.starts.append(time.monotonic())
        await start_another(here)
        await online
        figures.takeovers_s.append(time.monotonic() - killed)
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def check_all(here: World, traffic: Traffic) -> None:
    """Every reply that a member saw is stored, in one turn; no question has two; nothing begun is without an end."""
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
