"""W6 through the bot: `python -m tests.bench.chat --engine-url http://127.0.0.1:8000/v1` prints one JSON line a run.

The bot as its own process, with SQLite on this disk, between the fake Discord and a running engine. Members of several
guilds talk at once, each in a closed loop: the next message comes when the final edit of the last reply is there.
Personas and messages are drawn words of a wanted number of tokens; replies are as long as the engine makes them, at
most `--reply` tokens. It asserts nothing of speed; it fails when a reply is not what the database holds.
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
from tests.discord.harness import BotProcess
from tests.fakes.discord.server import FakeDiscord, Guild, Interaction, User

LOOK = 0.005  # seconds between looks at a reply
PATIENCE = 300.0
LETTERS = "etaoinshrdlu"


@dataclass(slots=True)
class Asked:
    """One message and its reply, in seconds of this process's clock."""

    interaction: Interaction
    sent: float
    shown: float = 0.0  # the first words
    done: float = 0.0


@dataclass(slots=True)
class Run:
    options: argparse.Namespace
    discord: FakeDiscord
    engine: Engine
    rng: random.Random
    asked: list[Asked] = field(default_factory=list)

    async def persona(self, guild: Guild, manager: User) -> None:
        prompt = await self.engine.text_of(self.options.persona, self.rng)
        used = await self.discord.command(guild, manager, "persona set", prompt=prompt)
        await self.discord.done(used)

    async def member(self, guild: Guild, user: User, messages: Sequence[str]) -> None:
        for message in messages:
            asked = Asked(await self.discord.chat(guild, user, message), time.monotonic())
            self.asked.append(asked)
            while not asked.interaction.done():
                if time.monotonic() - asked.sent > PATIENCE:
                    raise TimeoutError("a reply never came")
                await asyncio.sleep(LOOK)
                if not asked.shown and asked.interaction.messages() and not asked.interaction.messages()[0].loading:
                    asked.shown = time.monotonic()
            asked.done = time.monotonic()

    async def all_members(self) -> float:
        """The makespan. Before it, guilds, personas and messages are made."""
        options, members = self.options, []
        for number in range(options.guilds):
            manager = self.discord.user(f"manager{number}")
            guild = self.discord.guild(f"guild{number}", managers=(manager,))
            await self.discord.join(guild)
            await self.persona(guild, manager)
            members += [(guild, self.discord.user(f"m{number}")) for _ in range(options.members // options.guilds)]
        texts = [await self.engine.text_of(options.message, self.rng) for _ in range(options.turns * 8)]
        began = time.monotonic()
        await asyncio.gather(
            *(self.member(guild, user, self.rng.sample(texts, options.turns)) for guild, user in members)
        )
        return max(each.done for each in self.asked) - began


class Engine:
    """What the bench asks of the engine itself: to count tokens, and for its figures."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._root, self._http = url.rstrip("/").removesuffix("/v1"), http

    async def model(self) -> str:
        async with self._http.get(f"{self._root}/v1/models") as response:
            return str((await response.json())["data"][0]["id"])

    async def text_of(self, tokens: int, rng: random.Random) -> str:
        """Drawn words that take about so many tokens."""
        words = [_word(rng) for _ in range(tokens)]
        low, high = 1, len(words)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if await self._count(" ".join(words[:middle])) <= tokens else (low, middle - 1)
        return " ".join(words[:low])

    async def _count(self, text: str) -> int:
        body = {"prompt": text, "add_special_tokens": False}
        async with self._http.post(f"{self._root}/tokenize", json=body) as response:
            return int((await response.json())["count"])

    async def figures(self) -> dict[str, float]:
        async with self._http.get(f"{self._root}/metrics") as response:
            text = await response.text()
        found = re.findall(r"^guildllama_engine_(\w+) ([0-9.e+]+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 5)))


def summary(run: Run, makespan: float, file: Path) -> dict[str, object]:
    with closing(sqlite3.connect(file)) as database:
        rows = dict(
            (interaction, row)
            for interaction, *row in database.execute(
                "SELECT interaction_id, prompt_tokens, completion_tokens, first_token_ms, total_ms, reply FROM turns "
                "WHERE status = 'done'"
            )
        )
    found = [(asked, rows[asked.interaction.id]) for asked in run.asked]
    for asked, row in found:
        if asked.interaction.reply() not in (row[4].strip(), "(no answer)") and len(asked.interaction.texts()) == 1:
            raise AssertionError(f"shown {asked.interaction.reply()!r}, stored {row[4]!r}")
    outputs = sum(row[1] for _, row in found)
    edits = [len(message.edits) for asked in run.asked for message in asked.interaction.messages()]
    return {
        "makespan_s": round(makespan, 3),
        "requests": len(found),
        "output_tokens": outputs,
        "output_tok_s": round(outputs / makespan, 1),
        "prompt_tokens": sum(row[0] for _, row in found),
        "ttft_p50_ms": _quantile([row[2] for _, row in found], 0.5),
        "ttft_p95_ms": _quantile([row[2] for _, row in found], 0.95),
        "generated_p50_ms": _quantile([row[3] for _, row in found], 0.5),
        "first_words_p50_ms": _quantile([1000 * (asked.shown - asked.sent) for asked, _ in found], 0.5),
        "reply_p50_ms": _quantile([1000 * (asked.done - asked.sent) for asked, _ in found], 0.5),
        "reply_p95_ms": _quantile([1000 * (asked.done - asked.sent) for asked, _ in found], 0.95),
        "edits": sum(edits),
        "edits_a_reply": round(statistics.mean(edits), 1),
        "rate_limited": run.discord.rest.num_rate_limited,
    }


def _quantile(values: Sequence[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 1)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def bench(options: argparse.Namespace, folder: Path) -> None:
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
                "GUILDLLAMA_TEMPERATURE": "0",
                "GUILDLLAMA_LOG_LEVEL": "WARNING",
            },
            folder,
        )
        try:
            await bot.start()
            await discord.until_ready()
            for number in range(options.runs):
                await one(options, number, Run(options, discord, engine, random.Random(number)), bot, file)
        finally:
            await bot.kill()


async def one(options: argparse.Namespace, number: int, run: Run, bot: BotProcess, file: Path) -> None:
    assert bot.process
    before, own, theirs = await run.engine.figures(), time.process_time(), cpu_seconds(bot.process.pid)
    makespan = await run.all_members()
    after = await run.engine.figures()
    line = {
        "engine": "guildllama through the bot",
        "workload": "W6",
        **summary(run, makespan, file),
        **{
            name: round(after[f"{name}_total"] - before[f"{name}_total"])
            for name in ("generated_tokens", "prefill_tokens", "prefix_hit_tokens", "steps")
            if f"{name}_total" in after
        },
        "bot_cpu_s": round(cpu_seconds(bot.process.pid) - theirs, 2),
        "discord_cpu_s": round(time.process_time() - own, 2),
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
    parser.add_argument("--engine-url", required=True, help="of a running engine, with /v1")
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--guilds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--persona", type=int, default=256, help="tokens of a guild's persona")
    parser.add_argument("--message", type=int, default=40, help="tokens of a message")
    parser.add_argument("--reply", type=int, default=100, help="the most tokens of a reply")
    parser.add_argument("--runs", type=int, default=2, help="the first is a warm-up, unless it is the only one")
    parser.add_argument("--folder", type=Path, help="where the database lies (default: a temporary folder)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="guildllama-bench-", dir=options.folder) as folder:
        asyncio.run(bench(options, Path(folder)))


if __name__ == "__main__":
    main()
