"""A month in half an hour: do the bot's memory, disk and latency stay flat? Prints a JSON line a day, and a verdict.

    python -m tests.bench.month --database sqlite
    python -m tests.bench.month --database postgres --guilds 50 --members 1000 --days 12 --minutes 3 --messages 60

The bot runs as its own process, with a clock that jumps (clock.py), between the fake Discord with its real limits and a
fake engine. It fails if an answer is lost or given twice, if something is older than its retention, if a request broke
a rule of Discord's, and, unless `--only-check`, if a figure grew by more than its bound (verdict.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from models.migrate import upgrade
from tests.bench.month.check import faults, log_faults
from tests.bench.month.clock import Clock
from tests.bench.month.engine import engine_process
from tests.bench.month.plan import Plan
from tests.bench.month.run import Month
from tests.bench.month.verdict import WARM_UP, verdicts
from tests.discord.harness import free_port
from tests.fakes.discord.server import FakeDiscord
from tests.postgres import Postgres


def plan_of(options: argparse.Namespace) -> Plan:
    """The month: the bot is killed and stopped in its first third, then lives on, and once more of each at the end."""
    days = options.days
    return Plan(
        guilds=options.guilds,
        members=options.members,
        days=days,
        seconds=60 * options.minutes / days,
        messages=options.messages,
        chatter=options.chatter,
        member_quota=options.member_quota,
        guild_quota=options.guild_quota,
        retention_days=options.retention_days,
        restarts={days // 10: "kill", days // 5: "stop", days // 4: "kill", days - 2: "kill", days - 1: "stop"},
        reconnects={day: "forget" if day % 6 == 0 else "resume" for day in range(2, days, 2)},
    )


async def live(
    plan: Plan, url: str, folder: Path, helpers: dict[str, int], *, pace: float, label: str
) -> dict[str, object]:
    """Live through the month; print its days, return its end."""
    port = free_port()
    days: list[dict[str, object]] = []
    with Clock(folder / "clock") as clock:
        async with FakeDiscord() as discord, engine_process(pace) as (engine_url, engine_pid):
            environment = {
                **discord.environment(),
                **{f"GUILDLLAMA_{name}": value for name, value in plan.settings().items()},
                "GUILDLLAMA_DATABASE_URL": url,
                "GUILDLLAMA_ENGINE_URL": engine_url,
                "GUILDLLAMA_METRICS_PORT": str(port),
                "GUILDLLAMA_LOG_FORMAT": "json",
                "GUILDLLAMA_LOG_LEVEL": "WARNING",
            }
            month = Month(
                plan, discord, clock, folder, environment, url=url, metrics_port=port,
                helpers={"engine": engine_pid, **helpers},
            )  # fmt: skip
            try:
                await month.start_bot()
                await month.prepare()
                for number in range(1, plan.days + 1):
                    days.append(await month.day(number))
                    print_line(days[-1], url, label)
                broken = await month.close()
                broken += await faults(url, month.acts.questions, left=month.town.left_ids, settings=plan.settings())
            except BaseException:
                sys.stderr.write(month.bots[-1].log()[-5000:] if month.bots else "")
                raise
            finally:
                for bot in month.bots:
                    await bot.kill()
            broken += [fault for bot in month.bots for fault in log_faults(bot.log())]
    outcomes = Counter(question.outcome for question in month.acts.questions)
    return {"days": days, "broken": broken, "questions": len(month.acts.questions), "outcomes": dict(outcomes)}


def print_line(line: dict[str, object], url: str, label: str) -> None:
    """One JSON line."""
    about = {
        "database": "sqlite" if url.startswith("sqlite") else "postgres",
        "label": label,
        "python": platform.python_version(),
        "discord.py": version("discord.py"),
        "date": datetime.now(UTC).date().isoformat(),
    }
    sys.stdout.write(json.dumps({**line, **about}) + "\n")
    sys.stdout.flush()


def bench(options: argparse.Namespace, folder: Path) -> int:
    """Do the month; the exit code."""
    plan, helpers = plan_of(options), {}
    with ExitStack() as stack:
        if options.database == "postgres":
            server = Postgres(folder / "postgres")
            stack.callback(server.close)
            server.execute("ALTER SYSTEM SET autovacuum_naptime = '2s'")  # a minute of the month is a fraction of one
            server.execute("SELECT pg_reload_conf()")
            url = server.url(server.create())
            helpers["postgres"] = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        else:
            url = f"sqlite:///{folder / 'month.db'}"
        upgrade(url)
        end = asyncio.run(live(plan, url, folder, helpers, pace=options.pace, label=options.label))
    days = end.pop("days")
    assert isinstance(days, list)
    found = verdicts(days, warm_up=min(WARM_UP, plan.days // 2))
    grown = [f"{each.name} grew by {each.growth}; {each.allowed} is allowed" for each in found if not each.flat]
    end["verdicts"] = {each.name: [each.first_week, each.growth, each.allowed] for each in found}
    end["grown"] = grown
    scale = {"guilds": plan.guilds, "members": plan.members, "minutes": options.minutes, "messages": plan.messages}
    print_line({"end": plan.days, **scale, **end}, url, options.label)
    return 1 if end["broken"] or (grown and not options.only_check) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.month", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--guilds", type=int, default=1000)
    parser.add_argument("--members", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=24.0, help="of the real clock, for the whole month")
    parser.add_argument("--messages", type=int, default=240, help="what members do with the bot in a day")
    parser.add_argument("--chatter", type=float, default=3.0, help="messages beside each of them that are not for it")
    parser.add_argument("--member-quota", type=int, default=3, help="messages of a member in a day")
    parser.add_argument("--guild-quota", type=int, default=20, help="messages of a guild in a day")
    parser.add_argument("--retention-days", type=int, default=7)
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between two pieces of an answer")
    parser.add_argument("--label", default="", help="goes into each line, to tell months apart")
    parser.add_argument("--keep", type=Path, help="folder for the bot's logs and what its process held each day")
    parser.add_argument("--only-check", action="store_true", help="do not fail because a figure grew")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="guildllama-month-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres does not run as root
        try:
            return bench(options, folder)
        finally:
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                for file in (*folder.glob("*.jsonl"), *folder.glob("bot-*.log")):
                    shutil.copy(file, options.keep)


if __name__ == "__main__":
    sys.exit(main())
