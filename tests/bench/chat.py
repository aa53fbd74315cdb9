"""Chat benchmark: workload W6 through the bot. Prints one JSON line per run.

    python -m tests.bench.chat --engine-url http://127.0.0.1:8000/v1

The bot runs as its own process, with a SQLite file, between the fake Discord and a running engine. Members of several
guilds chat at once, each in a closed loop: the next message follows the final edit of the last reply. Personas and
messages are random words with a given number of tokens; a reply has up to `--reply` tokens. It asserts nothing about
speed; it fails if a displayed reply differs from the stored one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from models.migrate import upgrade
from tests.bench.unlimited import UNLIMITED
from tests.discord.harness import BotProcess
from tests.fakes.discord.server import FakeDiscord, Guild, Interaction, User

POLL_INTERVAL = 0.005  # seconds
REPLY_TIMEOUT = 300.0  # seconds
LETTERS = "etaoinshrdlu"


@dataclass(slots=True)
class Request:
    """One message and its reply; times in seconds of this process's monotonic clock."""

    interaction: Interaction
    sent: float
    first_words: float = 0.0
    done: float = 0.0


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
            request = Request(await self.discord.chat(guild, user, message), time.monotonic())
            self.requests.append(request)
            while not request.interaction.done():
                if time.monotonic() - request.sent > REPLY_TIMEOUT:
                    raise TimeoutError("a reply never came")
                await asyncio.sleep(POLL_INTERVAL)
                shown = request.interaction.messages()
                if not request.first_words and shown and not shown[0].loading:
                    request.first_words = time.monotonic()
            request.done = time.monotonic()

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
        started = time.monotonic()
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


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 5)))


def summary(run: Run, makespan: float, file: Path) -> dict[str, object]:
    """Return the figures of one run. Raises AssertionError if a displayed reply differs from the stored one."""
    with closing(sqlite3.connect(file)) as database:
        rows = dict(
            (interaction, row)
            for interaction, *row in database.execute(
                "SELECT interaction_id, prompt_tokens, completion_tokens, first_token_ms, total_ms, reply FROM turns "
                "WHERE status = 'done'"
            )
        )
    found = [(request, rows[request.interaction.id]) for request in run.requests]
    for request, row in found:
        if request.interaction.reply() not in (row[4].strip(), "(no answer)") and len(request.interaction.texts()) == 1:
            raise AssertionError(f"shown {request.interaction.reply()!r}, stored {row[4]!r}")
    outputs = sum(row[1] for _, row in found)
    edits = [len(message.edits) for request in run.requests for message in request.interaction.messages()]
    return {
        "makespan_s": round(makespan, 3),
        "requests": len(found),
        "output_tokens": outputs,
        "output_tok_s": round(outputs / makespan, 1),
        "prompt_tokens": sum(row[0] for _, row in found),
        "ttft_p50_ms": _quantile([row[2] for _, row in found], 0.5),
        "ttft_p95_ms": _quantile([row[2] for _, row in found], 0.95),
        "generated_p50_ms": _quantile([row[3] for _, row in found], 0.5),
        "first_words_p50_ms": _quantile([1000 * (request.first_words - request.sent) for request, _ in found], 0.5),
        "reply_p50_ms": _quantile([1000 * (request.done - request.sent) for request, _ in found], 0.5),
        "reply_p95_ms": _quantile([1000 * (request.done - request.sent) for request, _ in found], 0.95),
        "edits": sum(edits),
        "edits_a_reply": round(statistics.mean(edits), 1),
        "rate_limited": run.discord.rest.num_rate_limited,
    }


def _quantile(values: Sequence[float], q: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(q * len(values)))], 1)


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    before, own_cpu, bot_cpu = await run.engine.metrics(), time.process_time(), cpu_seconds(bot.process.pid)
    makespan = await run.all_members()
    after = await run.engine.metrics()
    line = {
        "engine": "guildllama through the bot",
        "workload": "W6",
        **summary(run, makespan, file),
        **{
            name: round(after[f"{name}_total"] - before[f"{name}_total"])
            for name in ("generated_tokens", "prefill_tokens", "prefix_hit_tokens", "steps")
            if f"{name}_total" in after
        },
        "bot_cpu_s": round(cpu_seconds(bot.process.pid) - bot_cpu, 2),
        "discord_cpu_s": round(time.process_time() - own_cpu, 2),
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
    parser.add_argument("--engine-url", required=True, help="base URL of a running engine, with /v1")
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--guilds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--persona", type=int, default=256, help="tokens of a guild's persona")
    parser.add_argument("--message", type=int, default=40, help="tokens of a message")
    parser.add_argument("--reply", type=int, default=100, help="maximum tokens of a reply")
    parser.add_argument("--runs", type=int, default=2, help="the first is a warm-up, unless it is the only one")
    parser.add_argument("--folder", type=Path, help="folder of the database (default: a temporary one)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="guildllama-bench-", dir=options.folder) as folder:
        asyncio.run(bench(options, Path(folder)))


if __name__ == "__main__":
    main()
