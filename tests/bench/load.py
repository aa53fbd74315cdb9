"""Load benchmark: many replies that stream at once, by /chat and by mention, in many channels and in one.

    python -m tests.bench.load                 # all workloads, some runs of each; prints one JSON line per run

The bot runs as its own process, with Postgres, between the fake Discord with its real limits and a fake engine, which
is a process too and writes at a given pace. It fails if a shown reply differs from the generated one, or if a request
was refused for coming too soon; it asserts nothing about speed. What is measured is when a response, and the first
words of a reply, got to Discord.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.bench.unlimited import UNLIMITED
from tests.discord.harness import ROOT, BotProcess
from tests.fakes.discord.server import Channel, FakeDiscord, Guild, Interaction, Message, User
from tests.fakes.engine import FakeEngine, Request, Script
from tests.postgres import Postgres

REPLY_TIMEOUT = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Workload:
    """`members` ask at the same time, `turns` times, each in a channel of their own or all in one.

    The engine writes `rows` replies at once.
    """

    name: str
    members: int
    rows: int
    mention: bool = False
    one_channel: bool = False
    turns: int = 1


WORKLOADS = (
    Workload("40 by /chat, 40 channels", 40, 40),
    Workload("40 by mention, 40 channels", 40, 40, mention=True),
    Workload("10 by /chat, one channel", 10, 10, one_channel=True),
    Workload("10 by mention, one channel", 10, 10, mention=True, one_channel=True),
    Workload("40 by /chat, engine saturated", 40, 12, turns=5),
)


@dataclass(slots=True)
class Asked:
    """One question, and what it was answered with."""

    text: str
    interaction: Interaction | None = None
    message: Message | None = None
    replies: list[Message] = field(default_factory=list)


def words(question: str, length: int) -> list[str]:
    """The reply to a question, of `length` words that no other reply has."""
    name = question.split()[-1]
    return [f"{name}.{number} " for number in range(length)]


# ── the engine's process ─────────────────────────────────────────────────────────────────────────────────────────────


async def serve_engine(port: int, rows: int, length: int, pace: float) -> dict[str, float]:
    """Serve until SIGTERM; return when the first token of each reply was sent."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with FakeEngine(port=port) as engine:
        engine.limit(rows)

        def script(request: Request) -> Script:
            return Script(deltas=tuple(words(request.last, length)), pace=pace)

        engine.default = script
        await stop.wait()
    return {request.last: request.first_token_at for request in engine.requests}


@asynccontextmanager
async def engine_process(log_file: Path, rows: int, length: int, pace: float) -> AsyncIterator[str]:
    """The engine's URL. Its figures are in the file once it has ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.load", "--engine", str(log_file), str(port), str(rows), str(length),
        str(pace), cwd=ROOT,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def member(discord: FakeDiscord, workload: Workload, channel: Channel, user: User) -> list[Asked]:
    """One member's questions, each after the reply to the one before."""
    asked = []
    for turn in range(workload.turns):
        each = Asked(f"question {user.name}-{turn}")
        asked.append(each)
        if workload.mention:
            each.message = await discord.say(channel, user, f"<@{discord.bot.id}> {each.text}")
            each.replies = await discord.answered(each.message, timeout=REPLY_TIMEOUT)
        else:
            each.interaction = await discord.chat(channel, user, each.text)
            await discord.done(each.interaction, timeout=REPLY_TIMEOUT)
            each.replies = each.interaction.messages()
    return asked


async def run_once(workload: Workload, folder: Path, postgres: Postgres, length: int, pace: float) -> dict[str, object]:
    """Return the figures of one run. Raises AssertionError if a reply is wrong or a request was refused."""
    database = postgres.create_migrated()
    log_file = folder / "engine.json"
    async with FakeDiscord() as discord, engine_process(log_file, workload.rows, length, pace) as url:
        bot = BotProcess(
            {
                **discord.environment(),
                "GUILDLLAMA_DATABASE_URL": postgres.url(database),
                "GUILDLLAMA_ENGINE_URL": url,
                "GUILDLLAMA_MAX_REPLY_TOKENS": str(2 * length),
                "GUILDLLAMA_MAX_WAITING": str(4 * workload.members),
                **UNLIMITED,
                "GUILDLLAMA_LOG_LEVEL": "WARNING",
                "GUILDLLAMA_LOG_FORMAT": "json",
            },
            folder,
        )
        try:
            await bot.start()
            await discord.until_ready()
            guild = discord.guild("Load")
            places = [guild.channel] * workload.members
            if not workload.one_channel:
                places = [discord.channel(guild, f"c{number}") for number in range(workload.members)]
            await discord.join(guild)
            await warm_up(discord, guild)
            users = [discord.user(f"m{number}") for number in range(workload.members)]
            started = time.monotonic()
            found = await asyncio.gather(
                *(member(discord, workload, channel, user) for channel, user in zip(places, users, strict=True))
            )
            seconds = time.monotonic() - started
        except BaseException:
            sys.stderr.write(bot.log()[-5000:])
            raise
        finally:
            await bot.kill()
        log = bot.log()
    postgres.drop(database)
    first_tokens = first_token_times(log_file)
    asked = [each for of_member in found for each in of_member]
    wrong = [each.text for each in asked if shown(each) != words(each.text, length)]
    assert not wrong, f"not the generated text: {wrong}"
    assert discord.rest.num_rate_limited == 0, f"{discord.rest.num_rate_limited} requests came too soon"
    assert not discord.violations, discord.violations
    return {
        "workload": workload.name,
        "replies": len(asked),
        "seconds": round(seconds, 1),
        "first_visible_s": quantiles([first_visible(each) - first_tokens[each.text] for each in asked]),
        "acknowledged_ms": quantiles(
            [1000 * acknowledged(discord, each.interaction) for each in asked if each.interaction]
        ),
        "edits_a_reply": round(
            statistics.mean(sum(len(message.edits) for message in each.replies) for each in asked), 1
        ),
        "rate_limited": discord.rest.num_rate_limited,
        "loop_blocked_ms": max((int(found) for found in re.findall(r'"longest_ms": (\d+)', log)), default=0),
    }


def first_token_times(log_file: Path) -> dict[str, float]:
    """When the engine sent the first token for each question, in seconds since the epoch."""
    return {str(question): float(at) for question, at in json.loads(log_file.read_text()).items()}


async def warm_up(discord: FakeDiscord, guild: Guild) -> None:
    """One reply, so that everything is loaded and connected."""
    for _ in range(100):
        asked = await discord.chat(guild, discord.user("warm"), "question warm-up")
        await discord.done(asked, timeout=REPLY_TIMEOUT)
        if "warm-up.0" in asked.reply():
            return
    raise AssertionError(asked.reply())


def shown(asked: Asked) -> list[str]:
    """The words of a reply as they stand on Discord."""
    texts = [message.content for message in asked.replies]
    lines = [line for text in texts for line in text.split("\n") if not line.startswith("> ")]
    return [f"{word} " for word in " ".join(lines).split()]


def first_visible(asked: Asked) -> float:
    """When the first words got to Discord, in seconds since the epoch."""
    word = words(asked.text, 1)[0].strip()
    return next(at for at, text in asked.replies[0].edits if word in text)


def acknowledged(discord: FakeDiscord, interaction: Interaction) -> float:
    """Seconds from an interaction to the request that acknowledged it."""
    [callback] = discord.sent("POST", f"/interactions/{interaction.id}/")
    return callback.received_at - interaction.created_at


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Median, 99th percentile and maximum."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
        "max": round(ordered[-1], 3),
    }


async def bench(options: argparse.Namespace, folder: Path) -> None:
    """Do the runs."""
    postgres = Postgres(folder / "postgres")
    try:
        postgres.ensure_template()
        for workload in WORKLOADS:
            if options.only not in workload.name:
                continue
            for _ in range(options.runs):
                figures = await run_once(workload, folder, postgres, options.length, options.pace)
                about = {
                    "tokens_a_reply": options.length,
                    "tokens_per_s": round(1 / options.pace),
                    "rows": workload.rows,
                    "database": "postgres",
                    "python": platform.python_version(),
                    "discord.py": version("discord.py"),
                    "date": datetime.now(UTC).date().isoformat(),
                }
                sys.stdout.write(json.dumps({**figures, **about}) + "\n")
                sys.stdout.flush()
    finally:
        postgres.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and run, as the benchmark or as its engine."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--engine"]:
        log_file, port, rows, length, pace = given[1:]
        figures = asyncio.run(serve_engine(int(port), int(rows), int(length), float(pace)))
        Path(log_file).write_text(json.dumps(figures))
        return
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each workload")
    parser.add_argument("--length", type=int, default=150, help="tokens of a reply")
    parser.add_argument("--pace", type=float, default=0.05, help="seconds between two tokens of a reply")
    parser.add_argument("--only", default="", help="only workloads whose name contains this")
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="guildllama-load-") as folder:
        asyncio.run(bench(options, Path(folder)))


if __name__ == "__main__":
    main()
