"""Database benchmark: latency of the queries with 10,000, 100,000 and 1,000,000 stored turns.

    python tests/bench/database.py [--sizes 10000,100000,1000000] [--backends sqlite,postgres] [--write docs]

Fills 1,000 guilds and 100,000 members in bulk, then times the queries of a chat one at a time, through the Database
and the queries that the bot uses. Durability is as in production: SQLite in WAL mode with synchronous=FULL, Postgres
with fsync and synchronous_commit on. In the results T1 is the begin transaction and T2 the finish transaction of a
turn; the names stay as they are so that runs can be compared. It asserts nothing.
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
from models.queries.deletion.retention import RetentionLimits  # noqa: E402
from models.tables import Base, Dialog, Guild, Turn, User  # noqa: E402
from models.types import DialogKey, TurnResult  # noqa: E402
from models.urls import sync_url  # noqa: E402
from tests.bench.database_report import Line, write_report  # noqa: E402

GUILDS = 1000
MEMBERS = 100_000
CHUNK_ROWS = 5000  # rows per bulk insert
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TEXT = "What would you take along on a journey to the mountains, and why? " * 3
REPLY = "A warm coat, a good map, and someone to share the view with. " * 8


def key_of(member: int) -> DialogKey:
    """Return the key of member 0 ... MEMBERS - 1, each of whom is in one guild."""
    return DialogKey(1 + member % GUILDS, 1 + member)


def fill(url: str, turns: int) -> None:
    """Fill the tables. Turns are skewed towards few members; a tenth of the dialogs ended 90 days ago."""
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
        if len(chunk) == CHUNK_ROWS:
            with engine.begin() as connection:
                connection.execute(insert(table), chunk)
            chunk = []
    if chunk:
        with engine.begin() as connection:
            connection.execute(insert(table), chunk)


async def measure(url: str, backend: str, turns: int) -> list[Line]:
    """Time every operation on a filled database."""
    database = Database(url)
    rng = random.Random(7)
    lines: list[Line] = []

    async def time_operation(name: str, count: int, operation: Callable[[], Awaitable[None]]) -> None:
        for _ in range(min(20, count)):
            await operation()
        elapsed_ms = []
        for _ in range(count):
            started = time.perf_counter()
            await operation()
            elapsed_ms.append((time.perf_counter() - started) * 1000)
        add_line(name, elapsed_ms)

    def add_line(name: str, elapsed_ms: list[float]) -> None:
        values, count = sorted(elapsed_ms), len(elapsed_ms)
        lines.append(Line(backend, turns, name, count, values[count // 2], values[int(count * 0.99)]))

    def random_key() -> DialogKey:
        member = int(MEMBERS * rng.random() ** 2)
        return key_of(member - member % 10)  # a member whose dialog is open

    async def fetch_history() -> None:
        async with database.read() as session:
            await queries.history(session, key=random_key(), limit=10)

    async def begin_and_finish() -> None:
        key = random_key()
        started = time.perf_counter()
        async with database.write() as session:
            turn = await queries.begin_turn(
                session, key=key, text=TEXT, limit=10, interaction_id=rng.getrandbits(62), now=NOW
            )
        begin_done = time.perf_counter()
        done = TurnResult(REPLY, 400, 100, "stop", 40, 900)
        async with database.write() as session:
            await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=done, now=NOW)
        begin_ms.append((begin_done - started) * 1000)
        finish_ms.append((time.perf_counter() - begin_done) * 1000)

    begin_ms: list[float] = []
    finish_ms: list[float] = []
    await time_operation("fetch history", 2000, fetch_history)
    await time_operation("T1 + T2", 1000, begin_and_finish)
    add_line("T1 (begin)", begin_ms[-1000:])
    add_line("T2 (finish)", finish_ms[-1000:])

    service = PrivacyService(database)
    members = iter(rng.sample(range(MEMBERS // 100), 60))

    async def delete_person() -> None:
        await service.delete(1 + next(members) * 10)

    await time_operation("privacy delete", 40, delete_person)

    batch_ms: list[float] = []
    write = database.write

    @contextmanager
    def timed_writes() -> Iterator[None]:
        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def timed():  # type: ignore[no-untyped-def]
            async with write() as session:
                started = time.perf_counter()
                yield session
            batch_ms.append((time.perf_counter() - started) * 1000)

        database.write = timed  # type: ignore[method-assign]
        yield
        database.write = write  # type: ignore[method-assign]

    limits = RetentionLimits(timedelta(days=7), timedelta(days=30), timedelta(days=7))
    with timed_writes():
        await clean(database, limits=limits, now=NOW)
    add_line("cleanup batch", batch_ms)
    lines.append(Line(backend, turns, "cleanup, longest", len(batch_ms), max(batch_ms), max(batch_ms)))
    await database.close()
    return lines


def run(backend: str, turns: int) -> list[Line]:
    """Create a database of this size, measure it, and remove it."""
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
    """Run the benchmark for every backend and size; print one JSON line per operation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--backends", default="sqlite,postgres")
    parser.add_argument("--write", type=Path, help="folder for the table, the plot and the raw lines")
    arguments = parser.parse_args()
    lines: list[Line] = []
    for backend in arguments.backends.split(","):
        for size in arguments.sizes.split(","):
            measured = run(backend, int(size))
            lines += measured
            for line in measured:
                sys.stdout.write(json.dumps(line.data()) + "\n")
                sys.stdout.flush()
    if arguments.write is not None:
        write_report(arguments.write, lines)


if __name__ == "__main__":
    main()
