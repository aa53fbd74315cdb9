"""CPU benchmark: what one message costs the bot's core. Prints one JSON line per run.

    python -m tests.bench.cpu                       # milliseconds of CPU time a message
    python -m tests.bench.cpu --statements          # which statements a message runs, and how often
    python -m tests.bench.cpu --profile bot.prof    # the bot under cProfile; read it with `python -m pstats bot.prof`

The bot runs as its own process, with a SQLite file, between the fake Discord and a fake engine, which is a process too.
Members of four guilds ask in a closed loop. It asserts nothing about speed: to compare two versions, run them in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from bot.cli import main as bot_main
from models.migrate import upgrade
from tests.bench.chat import cpu_seconds
from tests.bench.load import Workload, engine_process, member, warm_up
from tests.bench.unlimited import UNLIMITED
from tests.discord.harness import COMMAND, BotProcess
from tests.fakes.discord.server import FakeDiscord

GUILDS = 4


async def run_once(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return the figures of one run."""
    url = f"sqlite:///{folder / 'guildllama.db'}"
    upgrade(url)
    workload = Workload("cpu", options.members, options.members, mention=options.mention, turns=options.turns)
    engine = engine_process(folder / "engine.json", workload.rows, options.length, options.pace)
    async with FakeDiscord() as discord, engine as engine_url:
        settings = {
            "GUILDLLAMA_DATABASE_URL": url,
            "GUILDLLAMA_ENGINE_URL": engine_url,
            "GUILDLLAMA_MAX_WAITING": str(4 * workload.members),
            **UNLIMITED,
            "GUILDLLAMA_LOG_LEVEL": "WARNING",
        }
        bot = BotProcess({**discord.environment(), **settings}, folder, command=_command(options))
        try:
            await bot.start()
            await discord.until_ready()
            guilds = [discord.guild(f"g{number}") for number in range(GUILDS)]
            for guild in guilds:
                await discord.join(guild)
            await warm_up(discord, guilds[0])
            places = [discord.channel(guilds[number % GUILDS], f"c{number}") for number in range(workload.members)]
            users = [discord.user(f"m{number}") for number in range(workload.members)]
            assert bot.process is not None
            cpu, started = cpu_seconds(bot.process.pid), time.monotonic()
            members = [member(discord, workload, place, user) for place, user in zip(places, users, strict=True)]
            asked = sum(map(len, await asyncio.gather(*members)))
            seconds = time.monotonic() - started
            cpu = cpu_seconds(bot.process.pid) - cpu
            await bot.stop()
        finally:
            await bot.kill()
        assert not discord.violations, discord.violations
    return {
        "workload": "bot cpu",
        "by": "mention" if options.mention else "chat",
        "messages": asked,
        "tokens_a_reply": options.length,
        "seconds": round(seconds, 1),
        "cpu_ms_a_message": round(1000 * cpu / asked, 1),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _command(options: argparse.Namespace) -> tuple[str, ...]:
    """The bot itself, or this module around it."""
    watched = (sys.executable, "-m", "tests.bench.cpu", "--bot")
    if options.profile is not None:
        return (*watched, "profile", str(options.profile.absolute()))
    return (*watched, "statements", str(options.statements_file)) if options.statements else COMMAND


def run_bot(kind: str, file: Path) -> None:
    """Run the bot in this process, and leave its profile or the counts of its statements in `file` when it ends."""
    sys.argv = ["bot", "run"]
    profile, counts = cProfile.Profile(), Counter[str]()

    def statement(connection: Any, cursor: Any, text: str, *rest: Any) -> None:
        counts[" ".join(text.split())] += 1

    def commit(connection: Any) -> None:
        counts["COMMIT"] += 1

    try:
        if kind == "profile":
            profile.runcall(bot_main)
        else:
            event.listen(Engine, "before_cursor_execute", statement)
            event.listen(Engine, "commit", commit)
            bot_main()
    finally:
        if kind == "profile":
            profile.dump_stats(file)
        else:
            file.write_text(json.dumps(counts.most_common()))


def print_statements(file: Path, messages: int) -> None:
    """Print the statements that at least every fourth message runs."""
    for text, count in json.loads(file.read_text()):
        if count >= messages / 4:
            sys.stdout.write(f"{count / messages:5.2f} {text}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and run, as the benchmark or as the bot that it watches."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--bot"]:
        run_bot(given[1], Path(given[2]))
        return
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cpu", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--turns", type=int, default=4, help="messages of each member")
    parser.add_argument("--length", type=int, default=14, help="tokens of a reply, each an event")
    parser.add_argument("--pace", type=float, default=0.05, help="seconds between two tokens of a reply")
    parser.add_argument("--mention", action="store_true", help="ask by mention instead of by /chat")
    watch = parser.add_mutually_exclusive_group()
    watch.add_argument("--statements", action="store_true", help="count the statements of a message")
    watch.add_argument("--profile", type=Path, help="run the bot under cProfile and write it here")
    options = parser.parse_args(given)
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="guildllama-cpu-") as folder:
            options.statements_file = Path(folder) / "statements.json"
            figures = asyncio.run(run_once(options, Path(folder)))
            sys.stdout.write(json.dumps(figures) + "\n")
            if options.statements:
                print_statements(options.statements_file, options.members * options.turns)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
