"""How the dialog log scales: 10,000, 100,000 and 1,000,000 turns on each database.

    python tests/bench/database.py [--sizes 10000,100000,1000000] [--backends sqlite,postgres] [--write docs]

Fills 1,000 guilds and 100,000 members in bulk, then times the queries of a chat one after the other, as one busy bot
would, through the same Database and queries that the bot uses. Durability as in production: SQLite in WAL mode with
synchronous=FULL, Postgres with fsync and synchronous_commit on. Not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sqlalchemy import Engine, insert, text  # noqa: E402

from bot.guilds.privacy import PrivacyService  # noqa: E402
from models import queries  # noqa: E402
from models.database import Database  # noqa: E402
from models.engines import sync_engine  # noqa: E402
from models.maintenance.cleanup import clean  # noqa: E402
from models.migrate import upgrade  # noqa: E402
from models.queries.retention import Limits  # noqa: E402
from models.tables import Base, Dialog, Guild, Turn, User  # noqa: E402
from models.types import DialogKey, TurnResult  # noqa: E402
from models.urls import sync_url  # noqa: E402
from tests.bench.database_report import Line, write_report  # noqa: E402

GUILDS = 1000
MEMBERS = 100_000
CHUNK = 5000
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TEXT = "What would you take along on a journey to the mountains, and why? " * 3
REPLY = "A warm coat, a good map, and someone to share the view with. " * 8


def key_of(member: int) -> DialogKey:
    return DialogKey(1 + member % GUILDS, 1 + member)


def fill(url: str, turns: int) -> None:
    """Members by a skewed draw: a few talk much, most a little. A tenth of the dialogs ended long ago."""
    rng = random.Random(turns)
    engine = sync_engine(sync_url(url), busy_timeout=60)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA cache_size = -200000")
    ended_at = NOW - timedelta(days=90)
    _insert(engine, Guild, ({"id": number + 1, "first_seen_at": NOW} for number in range(GUILDS)))
    _insert(engine, User, ({"id": number + 1, "first_seen_at": NOW} for number in range(MEMBERS)))
    _insert(
        engine,
        Dialog,
        (
            {
                "id": number + 1,
                "guild_id": key_of(number).guild_id,
                "user_id": key_of(number).user_id,
                "opened_at": NOW - timedelta(days=100),
                "last_active_at": ended_at if number % 10 == 9 else NOW,
                "ended_at": ended_at if number % 10 == 9 else None,
                "end_reason": "idle" if number % 10 == 9 else None,
            }
            for number in range(MEMBERS)
        ),
    )
    _insert(
        engine,
        Turn,
        (
            {
                "id": number + 1,
                "dialog_id": 1 + int(MEMBERS * rng.random() ** 2),
                "interaction_id": number + 1,
                "status": "done",
                "user_text": TEXT,
                "reply": REPLY,
                "prompt_tokens": 400,
                "completion_tokens": 100,
                "finish_reason": "stop",
                "first_token_ms": 40,
                "total_ms": 900,
                "created_at": NOW,
                "finished_at": NOW,
            }
            for number in range(turns)
        ),
    )
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            for name in ("dialogs", "turns"):
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}"))
            connection.commit()
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
        else:
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    engine.dispose()


def _insert(engine: Engine, table: type[Base], rows: Iterator[dict[str, object]]) -> None:
    chunk: list[dict[str, object]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            with engine.begin() as connection:
                connection.execute(insert(table), chunk)
            chunk = []
    if chunk:
        with engine.begin() as connection:
            connection.execute(insert(table), chunk)


async def measure(url: str, backend: str, turns: int) -> list[Line]:
    database = Database(url)
    rng = random.Random(7)
    lines: list[Line] = []

    async def times(name: str, count: int, act: Callable[[], Awaitable[None]]) -> None:
        for _ in range(min(20, count)):
            await act()
        taken = []
        for _ in range(count):
            started = time.perf_counter()
            await act()
            taken.append((time.perf_counter() - started) * 1000)
        taken.sort()
        lines.append(Line(backend, turns, name, count, taken[count // 2], taken[int(count * 0.99)]))

    def someone() -> DialogKey:
        member = int(MEMBERS * rng.random() ** 2)
        return key_of(member - member % 10)  # one whose dialog is open

    async def fetch() -> None:
        async with database.read() as session:
            await queries.history(session, key=someone(), limit=10)

    async def t1_t2() -> None:
        key = someone()
        started = time.perf_counter()
        async with database.write() as session:
            begun = await queries.begin_turn(
                session, key=key, text=TEXT, limit=10, interaction_id=rng.getrandbits(62), reply_token="t", now=NOW
            )
        middle = time.perf_counter()
        done = TurnResult(REPLY, 400, 100, "stop", 40, 900)
        async with database.write() as session:
            await queries.finish_turn(session, key=key, turn_id=begun.turn_id, result=done, now=NOW)
        halves.append((middle - started, time.perf_counter() - middle))

    halves: list[tuple[float, float]] = []
    await times("fetch history", 2000, fetch)
    await times("T1 + T2", 1000, t1_t2)
    for index, name in ((0, "T1 (begin)"), (1, "T2 (finish)")):
        taken = sorted(half[index] * 1000 for half in halves[-1000:])
        lines.append(Line(backend, turns, name, len(taken), taken[len(taken) // 2], taken[int(len(taken) * 0.99)]))

    service = PrivacyService(database)
    victims = iter(rng.sample(range(MEMBERS // 100), 60))

    async def forget() -> None:
        await service.delete(1 + next(victims) * 10)

    await times("privacy delete", 40, forget)

    batches: list[float] = []
    write = database.write

    @contextmanager
    def timed_writes() -> Iterator[None]:
        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def timed():  # type: ignore[no-untyped-def]
            async with write() as session:
                started = time.perf_counter()
                yield session
            batches.append((time.perf_counter() - started) * 1000)

        database.write = timed  # type: ignore[method-assign]
        yield
        database.write = write  # type: ignore[method-assign]

    limits = Limits(timedelta(days=7), timedelta(days=30), timedelta(days=7))
    with timed_writes():
        await clean(database, limits=limits, now=NOW)
    batches.sort()
    count = len(batches)
    lines.append(Line(backend, turns, "cleanup batch", count, batches[count // 2], batches[int(count * 0.99)]))
    lines.append(Line(backend, turns, "cleanup, longest", count, batches[-1], batches[-1]))
    await database.close()
    return lines


def run(backend: str, turns: int) -> list[Line]:
    sys.stderr.write(f"{backend}, {turns:,} turns: filling\n")
    with tempfile.TemporaryDirectory(prefix="guildllama-bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        if backend == "sqlite":
            url = f"sqlite:///{folder}/bench.db"
            upgrade(url)
            fill(url, turns)
            return asyncio.run(measure(url, backend, turns))
        from tests.postgres import Postgres

        server = Postgres(Path(tempfile.gettempdir()) / f"guildllama-bench-{uuid.uuid4().hex}")
        try:
            url = server.url(server.create())
            upgrade(url)
            fill(url, turns)
            return asyncio.run(measure(url, backend, turns))
        finally:
            server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--backends", default="sqlite,postgres")
    parser.add_argument("--write", type=Path, help="folder for the table, the plot and the raw lines")
    arguments = parser.parse_args()
    lines: list[Line] = []
    for backend in arguments.backends.split(","):
        for size in arguments.sizes.split(","):
            fresh = run(backend, int(size))
            lines += fresh
            for line in fresh:
                sys.stdout.write(json.dumps(line.data()) + "\n")
                sys.stdout.flush()
    if arguments.write is not None:
        write_report(arguments.write, lines)


if __name__ == "__main__":
    main()
