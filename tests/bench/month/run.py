"""One month on one database: days of four quarters, each with its traffic, a pause and a jump of the clock.

The bot, the engine and Postgres are processes of their own; Discord and the members are in this one. Every night some
leave and others come; on given days the gateway is lost, and the bot is stopped or killed. Measures at the end of each
day. What is compared with what is up to `verdict` and `check`.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.month.acts import GOES_ON, NEVER_ENDED, Acts, Question, Today
from tests.bench.month.clock import DAY, Clock
from tests.bench.month.control import Control
from tests.bench.month.forget import forget_the_day
from tests.bench.month.plan import Plan
from tests.bench.month.sample import (
    cpu_seconds,
    database_figures,
    machine_seconds,
    num_descriptors,
    num_threads,
    resident_mib,
    tree_cpu_seconds,
)
from tests.bench.month.town import REMEMBERING, Town
from tests.discord.harness import BotProcess, page
from tests.fakes.discord.server import FakeDiscord

QUARTERS = (0.06, 0.28, 0.30, 0.36)
"""Share of a day's messages: at night, in the morning, in the afternoon, in the evening."""
LONGEST_PAUSE = 1.2
"""Seconds of quiet before a jump and after it; a fifth of a short quarter."""


class Month:
    """The surroundings of the bot, and the bot."""

    def __init__(
        self, plan: Plan, discord: FakeDiscord, clock: Clock, folder: Path, environment: dict[str, str], *,
        url: str, metrics_port: int, helpers: dict[str, int],
    ) -> None:  # fmt: skip
        """`helpers`: processes whose CPU time is told too, by name."""
        self.plan = plan
        self.discord = discord
        self.clock = clock
        self.url = url
        self.folder = folder
        self.metrics_port = metrics_port
        self.helpers = helpers
        self.rng = random.Random(19)
        self.town = Town(discord, self.rng, guilds=plan.guilds, members=plan.members)
        self.acts = Acts(discord, self.town, member_quota=plan.member_quota, guild_quota=plan.guild_quota)
        self.census_file = folder / "census.json"
        command = (sys.executable, "-m", "tests.bench.month.clocked_bot", str(clock.file), str(self.census_file))
        self._make_bot: Callable[[], BotProcess] = lambda: BotProcess(environment, folder, command=command)
        self.bots: list[BotProcess] = []
        self.violations: list[str] = []
        self.started = time.time()
        self.pause = min(LONGEST_PAUSE, plan.seconds / len(QUARTERS) / 5)
        self._doing: set[asyncio.Task[None]] = set()
        self._control = Control()
        self._cpu: Counter[str] = Counter()  # at the end of the day before
        self._cpu_of_ended = 0.0  # of bots

    @property
    def pid(self) -> int:
        assert self.bots[-1].process
        return self.bots[-1].process.pid

    async def start_bot(self) -> None:
        self.discord.gateway.sessions.clear()
        self.bots.append(self._make_bot())
        await self.bots[-1].start()
        try:
            await self.discord.until_ready(timeout=180)
        except TimeoutError:
            raise AssertionError(f"the bot is not on the gateway: {self.bots[-1].log()[-3000:]}") from None
        await asyncio.sleep(2)  # it reads the guilds

    async def prepare(self) -> None:
        """Switch the memory on in the largest guilds. Their prompts hold one pair, so that the rest is summarised."""
        for home in self.town.homes[: max(1, round(len(self.town.homes) * REMEMBERING))]:
            for name, options in (("config memory on", {}), ("config set", {"max_chat_logs": 1})):
                await self.discord.done(await self.discord.command(home.guild, home.manager, name, **options))
            home.remembers = True
        self._cpu = self._cpu_now()

    async def day(self, number: int) -> dict[str, object]:
        """Live through a day; return its figures."""
        midnight = self.started + (number - 1) * DAY
        self._control.start()
        for quarter, share in enumerate(QUARTERS):
            await self.clock_to(midnight + quarter * DAY / len(QUARTERS))
            if quarter == 0:
                await self.town.night()
            if quarter == 2 and number in self.plan.reconnects:
                await self._reconnect(self.plan.reconnects[number])
            seconds = self.plan.seconds / len(QUARTERS) - 2 * self.pause
            await self._traffic(seconds, share * self.plan.messages)
            if quarter == len(QUARTERS) - 1 and number in self.plan.restarts:
                await self._restart(self.plan.restarts[number])
            await self._settle()
        return await self._figures(number)

    async def clock_to(self, moment: float) -> None:
        self.clock.move_to(moment)
        self.bots[-1].send(signal.SIGUSR1)
        await asyncio.sleep(self.pause)

    async def _traffic(self, seconds: float, messages: float) -> None:
        """Run this number of acts. Their visitors come at random moments of these seconds."""
        begun, chatter = time.monotonic(), 0.0
        visitors = round(messages * (1 - GOES_ON))
        moments = sorted(self.rng.uniform(0, seconds) for _ in range(visitors))
        for moment in moments:
            await asyncio.sleep(max(0.0, begun + moment - time.monotonic()))
            self._begin(self.acts.visit())
            chatter += self.plan.chatter / (1 - GOES_ON)
            while chatter >= 1:
                chatter -= 1
                await self.acts.chatter()
        await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))

    def _begin(self, act: Any) -> None:
        task = asyncio.create_task(act)
        self._doing.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._doing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.violations.append(f"a member could not act: {error!r}")

    async def _settle(self) -> None:
        """Wait until nobody waits for anything."""
        if self._doing:
            await asyncio.wait(set(self._doing))
        await asyncio.sleep(self.pause)

    async def _restart(self, how: str) -> None:
        """While some members wait for answers."""
        for _ in range(5):
            self._begin(self.acts.visit())
        await asyncio.sleep(0.3)
        self._cpu_of_ended += cpu_seconds(self.pid)
        if how == "kill":
            await self.bots[-1].kill()
        elif (code := await self.bots[-1].stop()) != 0:
            self.violations.append(f"the bot ended with {code}")
        await self.discord.until(lambda: not self.discord.gateway.connected)
        await self.start_bot()

    async def _reconnect(self, how: str) -> None:
        before = self.discord.gateway.num_identifies
        await self.discord.gateway.close(4000, forget=how == "forget")
        await self.discord.until(lambda: self.discord.gateway.connected, 60)
        if how == "forget":
            await self.discord.until(lambda: self.discord.gateway.num_identifies > before, 60)
            await asyncio.sleep(2)

    # ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _figures(self, number: int) -> dict[str, object]:
        today, self.acts.today = self.acts.today, Today()
        control = self._control.stop()
        if number not in self.plan.restarts:
            ended = [each for each in self.acts.questions if each.outcome == NEVER_ENDED and self._was(each, number)]
            self.violations += [f"{each.kind} {each.id} of day {number} never ended: {each.shown}" for each in ended]
        shown = await page(self.metrics_port)
        now, before = self._cpu_now(), self._cpu
        self._cpu = now
        cpu = {name: now[name] - before[name] for name in now}
        count = sum(today.acts.values())
        census = await self._census()
        with self.folder.joinpath("census.jsonl").open("a") as file:
            file.write(json.dumps({"day": number, "run": len(self.bots), **census}) + "\n")
        self.violations += forget_the_day(self.discord, self.town)
        self.acts.forget()
        return {
            "day": number,
            "run": len(self.bots),
            "rss_mib": round(resident_mib(self.pid), 1),
            "fds": num_descriptors(self.pid),
            "threads": num_threads(self.pid),
            "tasks": census.get("tasks"),
            "objects": census["objects"],
            "acts": count,
            "by_kind": dict(today.acts),
            "chatter": today.chatter,
            "outcomes": dict(today.outcomes.most_common(12)),
            "acknowledged_p50_ms": _quantile(today.acknowledged, 0.5, 1000),
            "acknowledged_p99_ms": _quantile(today.acknowledged, 0.99, 1000),
            "replied_p50_s": _quantile(today.replied, 0.5),
            "replied_p99_s": _quantile(today.replied, 0.99),
            "control_p50_ms": _quantile(control, 0.5, 1000),
            "control_p99_ms": _quantile(control, 0.99, 1000),
            "bot_cpu_ms": round(1000 * cpu["bot"] / max(1, count), 1),
            "cpu_s": {name: round(value, 1) for name, value in cpu.items() if not name.startswith("machine")},
            "machine_busy": round(cpu["machine_busy"] / max(0.01, cpu["machine_all"]), 2),
            **database_figures(self.url),
            "cleanup_runs": shown.sum("guildllama_bot_cleanup_runs_total", outcome="done"),
            "cleanup_skipped": shown.sum("guildllama_bot_cleanup_runs_total", outcome="skipped"),
        }

    def _was(self, question: Question, day: int) -> bool:
        """Whether it was asked on this day."""
        return int((question.asked_at - self.started) // DAY) + 1 == day

    def _cpu_now(self) -> Counter[str]:
        busy, total = machine_seconds()
        helpers = {name: tree_cpu_seconds(pid) for name, pid in self.helpers.items()}
        bots = self._cpu_of_ended + cpu_seconds(self.pid)
        spent = {"bot": bots, "discord": time.process_time(), **helpers, "machine_busy": busy, "machine_all": total}
        return Counter(spent)

    async def _census(self) -> dict[str, Any]:
        """What the bot's process holds."""
        self.census_file.unlink(missing_ok=True)
        self.bots[-1].send(signal.SIGUSR2)
        async with asyncio.timeout(20):
            while not self.census_file.exists():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
        found: dict[str, Any] = json.loads(self.census_file.read_text())
        return found

    async def close(self) -> list[str]:
        """Let a last cleanup run, and stop the bot; what broke a rule."""
        await asyncio.sleep(8)
        if (code := await self.bots[-1].stop()) != 0:
            self.violations.append(f"the bot ended with {code}")
        if self.discord.rest.num_rate_limited:
            self.violations.append(f"{self.discord.rest.num_rate_limited} requests came too soon")
        twice = Counter(self.acts.twice)
        return self.violations + [f"{name} has two answers" for name in twice]


def _quantile(values: list[float], q: float, scale: float = 1.0) -> float | None:
    return round(scale * sorted(values)[min(len(values) - 1, int(q * len(values)))], 2) if values else None
