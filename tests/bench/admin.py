"""How long the operator's page takes for each of its pages, with a million stored turns.

    python -m tests.bench.admin [--turns 1000000] [--backend sqlite]

Fills the database as tests/bench/database.py does, with the use of 30 days beside it, and asks for each page over HTTP
in this process. Prints a table; asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert

from bot.admin.views.kept_figures import KeptFigures
from models.database import Database
from models.engines import sync_engine
from models.migrate import upgrade
from models.tables import DailyUsage
from models.urls import sync_url
from tests.bench.database import GUILDS, MEMBERS, fill, key_of
from tests.bot.admin.admin_kit import browser
from tests.postgres import Postgres

PAGES = {
    "overview, first time": "/a/0",
    "overview, within a minute": "/a/0",
    "guilds": "/a/0/guilds?after=500",
    "one guild": "/a/0/guilds/7",
    "members of a guild": "/a/0/guilds/7/members?after=50000",
    "all people": "/a/0/members?after=50000",
    "one member": "/a/0/guilds/7/members/7",
    "dialogs that go on": "/a/0/dialogs",
    "dialogs that ended": "/a/0/dialogs?state=ended",
    "dialogs of a guild": "/a/0/guilds/7/dialogs",
    "a conversation, first page": "/a/0/guilds/{guild}/dialogs/{dialog}",
    "a search that finds nothing": "/a/0/search?q=zebra",
    "audit log": "/a/0/audit",
}
ROUNDS = 7


def fill_usage(url: str) -> None:
    """One of nine members used the bot on each of the last 30 days, three times: a million turns."""
    engine, today = sync_engine(sync_url(url), busy_timeout=60), datetime.now(UTC).date()
    with engine.begin() as connection:
        for back in range(30):
            rows = [
                {
                    "guild_id": key_of(member).guild_id, "user_id": key_of(member).user_id,
                    "day": today - timedelta(days=back), "turns": 3, "prompt_tokens": 900, "completion_tokens": 200,
                }
                for member in range(back % 9, MEMBERS, 9)
            ]  # fmt: skip
            connection.execute(insert(DailyUsage), rows)
    engine.dispose()


async def measure(url: str) -> None:
    """Print the times of each page."""
    database = Database(url, guarded=True)
    async with browser(database) as here:
        await here.sign_in()
        longest = {"dialog": 1, "guild": key_of(0).guild_id}
        for name, path in PAGES.items():
            times = []
            for _ in range(ROUNDS):
                if name.endswith("first time"):
                    here.admin.figures = KeptFigures()
                began = time.perf_counter()
                await here.page(path.format(**longest))
                times.append((time.perf_counter() - began) * 1000)
            sys.stdout.write(f"| {name} | {statistics.median(times):.0f} | {max(times):.0f} |\n")
    await database.close()


def main() -> None:
    """Fill a database and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--backend", choices=["sqlite", "postgres"], default="sqlite")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = None
        if chosen.backend == "postgres":
            server = Postgres(Path(tempfile.gettempdir()) / f"guildllama-pg-admin-{uuid.uuid4().hex}")
            url = server.url(server.create())
        else:
            url = f"sqlite:///{folder}/admin.db"
        upgrade(url)
        fill(url, chosen.turns)
        fill_usage(url)
        sys.stdout.write(f"{chosen.backend}, {chosen.turns:,} turns, {GUILDS:,} guilds, {MEMBERS:,} members\n")
        asyncio.run(measure(url))
        if server is not None:
            server.close()


if __name__ == "__main__":
    main()
