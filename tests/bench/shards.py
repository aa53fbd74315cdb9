"""Several processes of the bot under fire: 4 processes share 16 shards of 2,000 guilds, and one is killed every 30 s.

    python -m tests.bench.shards                      # ten minutes; prints one JSON line
    python -m tests.bench.shards --seconds 60 --every 15

Real processes, which import everything at their start, with their real constants, on a Postgres that syncs each commit.
The fake Discord lets all shards open sessions at once, as Discord does for very large bots (max_concurrency 16). It
fails if anything acknowledged has no end, or is answered twice; it asserts nothing about speed. Beside the times of
acknowledgement it says whose processor time was used, since Discord, engine and members run on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.bench.processor_time import ProcessorTime, children_of
from tests.discord.bot_process import BotProcess
from tests.discord.delivery.shard_kit import (
    NO_END,
    Acknowledgement,
    Figures,
    Traffic,
    check_all,
    kill_again_and_again,
    processes,
    said,
    shared_out,
    slowly,
    start_another,
)
from tests.postgres import Postgres

START_SECONDS = 5.0
"""After a start, for which its times are shown apart."""


async def run(options: argparse.Namespace, url: str, postgres_pid: int, folder: Path) -> dict[str, object]:
    """Return the figures of one run. Raises AssertionError if something was lost or said twice."""
    figures = Figures()
    async with processes(
        url, folder, shards=options.shards, guilds=options.guilds, constants={}, make_bot=BotProcess,
        max_concurrency=options.shards, CLEANUP_INTERVAL="60s",
    ) as (here, guilds):  # fmt: skip
        for _ in range(options.processes - 1):
            await start_another(here)
        await shared_out(here, options.shards // options.processes)
        here.engine.default = slowly
        traffic = Traffic(here, guilds, figures, options.rate)
        used = ProcessorTime(
            {
                "bots": lambda: [bot.process.pid for bot in here.bots if bot.process and bot.running],
                "discord, engine and members": lambda: [os.getpid()],
                "postgres": lambda: [postgres_pid, *children_of(postgres_pid)],
            }
        )
        lag: list[float] = []
        watching = [asyncio.create_task(used.run()), asyncio.create_task(watch_lag(lag))]
        asking = asyncio.create_task(traffic.run())
        await asyncio.sleep(5)  # the first messages warm the processes up
        figures.acknowledged.clear()
        used.start()
        lag.clear()
        load_before, began = os.getloadavg(), time.monotonic()
        await kill_again_and_again(here, figures, seconds=options.seconds, every=options.every, shards=options.shards)
        seconds, load_after, spent = time.monotonic() - began, os.getloadavg(), used.spent()
        traffic.ended = True
        await asyncio.wait_for(asking, 180)
        for task in watching:
            task.cancel()
        await check_all(here, traffic)
        blocked = [line["longest_ms"] for bot in here.bots for line in said(bot, BLOCKED)]
    assert NO_END not in figures.outcomes, figures.outcomes
    return {
        "seconds": round(seconds),
        "kills": len(figures.kills),
        "asked_per_s": options.rate,
        "outcomes": dict(figures.outcomes),
        "not_heard": figures.not_heard,
        "process_died_before_acknowledging": figures.lost_with_process,
        "takeover_s": quantiles(figures.takeovers_s),
        "acknowledged_ms": quantiles(figures.times_ms()),
        "too_late": sum(each.ms is None for each in figures.acknowledged),
        "acknowledged_ms_after_start": quantiles(of(figures, near=True)),
        "acknowledged_ms_otherwise": quantiles(of(figures, near=False)),
        "slow": slow(figures),
        "cores_used": {group: round(each.used / seconds, 2) for group, each in spent.items()},
        "waited_for_a_core_s": {group: round(each.waited) for group, each in spent.items() if group != "other"},
        "loop_lag_of_discord_ms": quantiles(sorted(1000 * each for each in lag)),
        "loops_of_bots_blocked_ms": sorted(blocked)[-5:],
        "load_average": [round(load_before[0], 1), round(load_after[0], 1)],
    }


BLOCKED = "the event loop was blocked; heartbeats and acknowledgements came late"


async def watch_lag(lag: list[float]) -> None:
    """How late this process's own loop wakes up, which is part of every time that it measures."""
    while True:
        due = time.monotonic() + 0.05
        await asyncio.sleep(0.05)
        lag.append(time.monotonic() - due)


def of(figures: Figures, *, near: bool) -> list[float]:
    """The times of acknowledgement near a start, or of all others."""
    return sorted(each.ms or 3000.0 for each in figures.acknowledged if is_near(figures, each) is near)


def is_near(figures: Figures, each: Acknowledgement) -> bool:
    """Whether a process was killed or started shortly before."""
    return any(0 <= each.at - kill < START_SECONDS for kill in figures.kills)


def slow(figures: Figures) -> list[tuple[float, float | None]]:
    """The slowest: seconds since the last kill, and the time."""
    slowest = sorted(figures.acknowledged, key=lambda each: each.ms or 3000.0)[-12:]
    return [
        (
            round(min((each.at - kill for kill in figures.kills if kill <= each.at), default=-1), 1),
            each.ms and round(each.ms),
        )
        for each in slowest
    ]


def quantiles(values: list[float]) -> dict[str, float] | None:
    """Median, 99th percentile and maximum."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {
        "n": len(ordered),
        "p50": round(statistics.median(ordered), 1),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
        "max": round(ordered[-1], 1),
    }


def durable(postgres: Postgres) -> None:
    """Sync each commit to the disk, as an operator's server does."""
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        postgres.execute(f"ALTER SYSTEM RESET {setting}")
    postgres.execute("SELECT pg_reload_conf()")


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--every", type=float, default=30, help="seconds between two kills")
    parser.add_argument("--guilds", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rate", type=float, default=5.0, help="uses of /chat a second, of all members")
    options = parser.parse_args()
    server = Path(tempfile.gettempdir()) / f"guildllama-pg-bench-{uuid.uuid4().hex}"  # a folder that Postgres may enter
    postgres = Postgres(server)
    try:
        postgres.ensure_template()
        durable(postgres)
        pid = int((server / "postmaster.pid").read_text().split("\n", 1)[0])
        with tempfile.TemporaryDirectory() as folder:
            url = postgres.url(postgres.create_migrated())
            figures = asyncio.run(run(options, url, pid, Path(folder)))
    finally:
        postgres.close()
    about = {
        "processes": options.processes, "shards": options.shards, "guilds": options.guilds,
        "killed_every_s": options.every, "cores": os.cpu_count(), "database": "postgres",
        "python": platform.python_version(), "discord.py": version("discord.py"),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    sys.stdout.write(json.dumps({**figures, **about}) + "\n")


if __name__ == "__main__":
    main()
