"""Chat benchmark: workload W6 through the bot. Prints one JSON line per run.

    python -m tests.bench.chat --engine-url http://127.0.0.1:8000/v1
    python -m tests.bench.chat --pace 0.012

The bot runs as its own process, with a SQLite file, between the fake Discord and a running engine. Members of several
guilds chat at once, each in a closed loop: the next message follows the final edit of the last reply. Personas and
messages are random words with a given number of tokens; a reply has up to `--reply` tokens. It asserts nothing about
speed; it fails if a displayed reply differs from the stored one. Without `--engine-url` a fake engine writes the
replies, a word each `--pace` seconds: then the figures are those of bot and database alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from models.migrate import upgrade
from tests.bench.chat_figures import Request, summary, sync_milliseconds, transactions
from tests.bench.unlimited import UNLIMITED
from tests.discord.harness import ROOT, BotProcess, free_port
from tests.fakes.discord.server import FakeDiscord, Guild, User

POLL_INTERVAL = 0.005  # seconds
REPLY_TIMEOUT = 300.0  # seconds
LETTERS = "etaoinshrdlu"


@dataclass(slots=True)
class Run:
    """One run of the workload, and the requests it sent."""

    options: argparse.Namespace
    discord: FakeDiscord
    engine: Engine
    rng: random.Random
    requests: list[Request] = field(default_factory=list)

    async def set_persona(self, guild: Guild, manager: User) -> None:
        prompt = await self.engine.random_text(self.options.persona, self.rng)
        command = await self.discord.command(guild, manager, "persona set", prompt=prompt)
        await self.discord.done(command)

    async def member(self, guild: Guild, user: User, messages: Sequence[str]) -> None:
        for message in messages:
            request = Request(await self.discord.chat(guild, user, message))
            self.requests.append(request)
            while not request.interaction.done():
                if time.time() - request.sent > REPLY_TIMEOUT:
                    raise TimeoutError("a reply never came")
                await asyncio.sleep(POLL_INTERVAL)
                shown = request.interaction.messages()
                if not request.first_words and shown and not shown[0].loading:
                    request.first_words = time.time()
            request.done = time.time()

    async def all_members(self) -> float:
        """Create guilds, personas and messages, then chat; return the seconds from first message to last edit."""
        options, members = self.options, []
        for number in range(options.guilds):
            manager = self.discord.user(f"manager{number}")
            guild = self.discord.guild(f"guild{number}", managers=(manager,))
            await self.discord.join(guild)
            await self.set_persona(guild, manager)
            members += [(guild, self.discord.user(f"m{number}")) for _ in range(options.members // options.guilds)]
        texts = [await self.engine.random_text(options.message, self.rng) for _ in range(options.turns * 8)]
        started = time.time()
        await asyncio.gather(
            *(self.member(guild, user, self.rng.sample(texts, options.turns)) for guild, user in members)
        )
        return max(request.done for request in self.requests) - started


class Engine:
    """The engine's HTTP API as far as the benchmark uses it: model name, tokenizer, metrics."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._root, self._http = url.rstrip("/").removesuffix("/v1"), http

    async def model(self) -> str:
        """Return the model's name."""
        async with self._http.get(f"{self._root}/v1/models") as response:
            return str((await response.json())["data"][0]["id"])

    async def random_text(self, tokens: int, rng: random.Random) -> str:
        """Return random words of about `tokens` tokens, found by bisection over the number of words."""
        words = [_word(rng) for _ in range(tokens)]
        low, high = 1, len(words)
        while low < high:
            mid = (low + high + 1) // 2
            low, high = (mid, high) if await self._count(" ".join(words[:mid])) <= tokens else (low, mid - 1)
        return " ".join(words[:low])

    async def _count(self, text: str) -> int:
        body = {"prompt": text, "add_special_tokens": False}
        async with self._http.post(f"{self._root}/tokenize", json=body) as response:
            return int((await response.json())["count"])

    async def metrics(self) -> dict[str, float]:
        async with self._http.get(f"{self._root}/metrics") as response:
            text = await response.text()
        found = re.findall(r"^guildllama_engine_(\w+) ([0-9.e+]+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    async def bot_transactions(self, port: int) -> dict[str, float]:
        """What the bot's transactions have cost so far."""
        async with self._http.get(f"http://127.0.0.1:{port}/metrics") as response:
            return transactions(await response.text())


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 5)))


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def fake_engine(pace: float, words: int) -> Iterator[str]:
    """The URL of a fake engine, a process of its own."""
    port = free_port()
    command = (sys.executable, "-m", "tests.fakes.engine", "--port", str(port), "--pace", str(pace))
    with subprocess.Popen((*command, "--words", str(words)), cwd=ROOT) as process:
        try:
            for _ in range(200):
                with socket.socket() as connection:
                    if connection.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


async def bench(options: argparse.Namespace, folder: Path) -> None:
    """Start the fake Discord and the bot, and do the runs."""
    file = folder / "guildllama.db"
    upgrade(f"sqlite:///{file}")
    async with FakeDiscord() as discord, aiohttp.ClientSession() as http:
        engine = Engine(options.engine_url, http)
        bot = BotProcess(
            {
                **discord.environment(),
                "GUILDLLAMA_DATABASE_URL": f"sqlite:///{file}",
                "GUILDLLAMA_ENGINE_URL": options.engine_url,
                "GUILDLLAMA_MAX_REPLY_TOKENS": str(options.reply),
                "GUILDLLAMA_MAX_WAITING": str(2 * options.members),
                **UNLIMITED,
                "GUILDLLAMA_TEMPERATURE": "0",
                "GUILDLLAMA_LOG_LEVEL": "WARNING",
                "GUILDLLAMA_METRICS_PORT": str(options.metrics_port),
            },
            folder,
        )
        try:
            await bot.start()
            try:
                await discord.until_ready()
            except TimeoutError as error:
                raise RuntimeError(f"the bot did not connect:\n{bot.log()}") from error
            for number in range(options.runs):
                await run_once(options, number, Run(options, discord, engine, random.Random(number)), bot, file)
        finally:
            await bot.kill()


async def run_once(options: argparse.Namespace, number: int, run: Run, bot: BotProcess, file: Path) -> None:
    assert bot.process
    before, database = await run.engine.metrics(), await run.engine.bot_transactions(options.metrics_port)
    own_cpu, bot_cpu = time.process_time(), cpu_seconds(bot.process.pid)
    makespan = await run.all_members()
    own_cpu, bot_cpu = time.process_time() - own_cpu, cpu_seconds(bot.process.pid) - bot_cpu
    after, database_after = await run.engine.metrics(), await run.engine.bot_transactions(options.metrics_port)
    line = {
        "engine": "guildllama through the bot",
        "workload": "W6",
        **summary(run.requests, makespan, file),
        "rate_limited": run.discord.rest.num_rate_limited,
        **{name: round(database_after[name] - database[name], 2) for name in database},
        "sync_ms": sync_milliseconds(file.parent),
        **{
            name: round(after[f"{name}_total"] - before[f"{name}_total"])
            for name in ("generated_tokens", "prefill_tokens", "prefix_hit_tokens", "steps")
            if f"{name}_total" in after
        },
        "bot_cpu_s": round(bot_cpu, 2),
        "discord_cpu_s": round(own_cpu, 2),
        "model": await run.engine.model(),
        "members": options.members,
        "guilds": options.guilds,
        "turns": options.turns,
        "reply_at_most": options.reply,
        "date": datetime.now(UTC).date().isoformat(),
    }
    if number or options.runs == 1:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    if violations := run.discord.violations:
        raise AssertionError("\n".join(violations))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.chat", description=__doc__.splitlines()[0])
    parser.add_argument("--engine-url", help="base URL of a running engine, with /v1 (default: a fake one)")
    parser.add_argument("--pace", type=float, default=0.012, help="seconds between two words of the fake engine")
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--guilds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--persona", type=int, default=256, help="tokens of a guild's persona")
    parser.add_argument("--message", type=int, default=40, help="tokens of a message")
    parser.add_argument("--reply", type=int, default=100, help="maximum tokens of a reply")
    parser.add_argument("--runs", type=int, default=2, help="the first is a warm-up, unless it is the only one")
    parser.add_argument("--folder", type=Path, help="folder of the database (default: a temporary one)")
    options = parser.parse_args(arguments)
    options.metrics_port = free_port()
    with tempfile.TemporaryDirectory(prefix="guildllama-bench-", dir=options.folder) as folder:
        if options.engine_url is not None:
            asyncio.run(bench(options, Path(folder)))
            return
        with fake_engine(options.pace, options.reply) as options.engine_url:
            asyncio.run(bench(options, Path(folder)))


if __name__ == "__main__":
    main()
