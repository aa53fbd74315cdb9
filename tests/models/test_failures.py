"""The database is locked, full, read-only, damaged, restarted or down: DatabaseUnavailable, and nothing half stored."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from models import queries
from models.database import Database
from models.errors import DatabaseUnavailable
from models.migrate import ROOT, check_revision, upgrade
from models.queries import inspection
from models.types import DialogKey, TurnResult
from tests.postgres import Postgres

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)
DONE = TurnResult("reply", 10, 5, "stop", 1, 2)


async def exchange(database: Database, text: str = "hi") -> bool:
    turn = await database.run(lambda session: queries.begin_turn(session, key=KEY, text=text, limit=10, now=NOW))
    return await database.run(
        lambda session: queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=DONE, now=NOW)
    )


def sqlite_file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


class TestLocked:
    async def test_fault_10_another_writer_keeps_the_lock(self, sqlite_url: str) -> None:
        database = Database(sqlite_url, busy_timeout=0.1)
        other = sqlite3.connect(sqlite_file(sqlite_url), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await exchange(database)
        with pytest.raises(DatabaseUnavailable, match="locked"):
            async with database.write() as session:
                await queries.begin_turn(session, key=KEY, text="hi", limit=10, now=NOW)
        assert time.monotonic() - started < 20
        async with database.read() as session:  # readers never wait for a writer
            assert await queries.history(session, key=KEY, limit=10) == ()
        other.execute("ROLLBACK")
        other.close()
        assert await exchange(database)
        async with database.read() as session:
            assert (await inspection.totals(session))["turns"] == 1
        await database.close()

    async def test_fault_10_another_writer_releases_the_lock_in_time(self, sqlite_url: str) -> None:
        database = Database(sqlite_url, busy_timeout=0.1)
        other = sqlite3.connect(sqlite_file(sqlite_url), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        async def release() -> None:
            await asyncio.sleep(0.3)
            other.execute("ROLLBACK")

        releasing = asyncio.create_task(release())
        assert await exchange(database)
        await releasing
        other.close()
        await database.close()


class TestRestart:
    async def test_fault_12_postgres_restarted_during_a_chat(self, own_postgres: Postgres) -> None:
        url = own_postgres.url(own_postgres.create())
        upgrade(url)
        database = Database(url)
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=KEY, text="hi", limit=10, interaction_id=5, now=NOW)

        own_postgres.stop()
        starting = asyncio.create_task(asyncio.to_thread(own_postgres.start))
        remembered = await database.run(
            lambda session: queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=DONE, now=NOW)
        )
        await starting
        assert remembered
        async with database.read() as session:
            assert [pair.reply for pair in await queries.history(session, key=KEY, limit=10)] == ["reply"]
        assert await exchange(database)
        await database.close()

    async def test_fault_12_postgres_stays_down(self, own_postgres: Postgres) -> None:
        url = own_postgres.url(own_postgres.create())
        upgrade(url)
        database = Database(url)
        assert await exchange(database)
        own_postgres.stop()
        with pytest.raises(DatabaseUnavailable):
            await exchange(database, "lost")
        with pytest.raises(DatabaseUnavailable):
            async with database.read() as session:
                await queries.history(session, key=KEY, limit=10)
        own_postgres.start()
        assert await exchange(database, "after")
        async with database.read() as session:
            assert [pair.user for pair in await queries.history(session, key=KEY, limit=10)] == ["hi", "after"]
        await database.close()

    async def test_fault_12_a_commit_whose_answer_is_lost_counts_once(self, database: Database) -> None:
        """If the connection dies after COMMIT but before its answer, the whole transaction runs a second time."""
        for attempt in (1, 2):
            async with database.write() as session:
                session.info["attempt"] = attempt
                turn = await queries.begin_turn(session, key=KEY, text="hi", limit=10, interaction_id=5, now=NOW)
        for _ in range(2):
            async with database.write() as session:
                assert await queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=DONE, now=NOW)
        async with database.read() as session:
            assert (await inspection.totals(session))["turns"] == 1
            [used] = await queries.usage(session, key=KEY, since=NOW.date())
        assert (used.turns, used.prompt_tokens, used.completion_tokens) == (1, 10, 5)


class TestDisk:
    async def test_fault_14_a_full_database(self, sqlite_url: str) -> None:
        database = Database(sqlite_url)
        assert await exchange(database)
        async with database.write() as session:
            connection = await session.connection()
            pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
            await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(DatabaseUnavailable, match="full"):
            await exchange(database, "x" * 100_000)
        async with database.read() as session:
            assert await inspection.integrity_problems(session) == ()
            assert [pair.user for pair in await queries.history(session, key=KEY, limit=10)] == ["hi"]
        await database.close()

    async def test_fault_14_a_full_disk(self, sqlite_url: str) -> None:
        """A process whose files are limited to a megabyte (RLIMIT_FSIZE) stands for a full disk."""
        filler = (
            "import asyncio, sys, signal\n"
            "from datetime import UTC, datetime\n"
            "from models import queries\n"
            "from models.database import Database\n"
            "from models.errors import DatabaseUnavailable\n"
            "from models.types import DialogKey\n"
            "async def main():\n"
            "    database = Database(sys.argv[1])\n"
            "    for number in range(1000):\n"
            "        try:\n"
            "            async with database.write() as session:\n"
            "                await queries.begin_turn(session, key=DialogKey(1, 2), text='x' * 30_000, limit=0,\n"
            "                                         now=datetime.now(UTC))\n"
            "        except DatabaseUnavailable as error:\n"
            "            print('refused', number, error.reason)\n"
            "            await database.close()\n"
            "            return\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "asyncio.run(main())\n"
        )

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

        done = await asyncio.to_thread(
            lambda: subprocess.run(
                [sys.executable, "-c", filler, sqlite_url],
                cwd=ROOT,
                capture_output=True,
                text=True,
                preexec_fn=limit,
                timeout=60,
                check=False,
            )
        )
        assert done.stdout.startswith("refused"), done.stdout + done.stderr
        stored = int(done.stdout.split()[1])
        check_revision(sqlite_url)
        database = Database(sqlite_url)
        async with database.read() as session:
            assert await inspection.integrity_problems(session) == ()
            assert (await inspection.totals(session))["turns"] == stored > 0
        assert await exchange(database)
        await database.close()

    def test_a_read_only_file(self, sqlite_url: str) -> None:
        reader = (
            "import asyncio, os, sys\n"
            "from datetime import UTC, datetime\n"
            "from models import queries\n"
            "from models.database import Database\n"
            "from models.errors import DatabaseUnavailable\n"
            "from models.types import DialogKey\n"
            "async def main():\n"
            "    database = Database(sys.argv[1])\n"
            "    try:\n"
            "        async with database.write() as session:\n"
            "            await queries.end_dialog(session, key=DialogKey(1, 2), now=datetime.now(UTC))\n"
            "    except DatabaseUnavailable as error:\n"
            "        print(error.reason)\n"
            "    await database.close()\n"
            "if os.geteuid() == 0:\n"
            "    os.setgid(65534)\n"
            "    os.setuid(65534)\n"
            "asyncio.run(main())\n"
        )
        path = sqlite_file(sqlite_url)
        readable = Path(f"/tmp/guildllama-read-only-{os.getpid()}.db")
        readable.write_bytes(path.read_bytes())
        readable.chmod(0o444)
        try:
            done = subprocess.run(
                [sys.executable, "-c", reader, f"sqlite:///{readable}"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert "readonly" in done.stdout, done.stdout + done.stderr
        finally:
            for leftover in readable.parent.glob(readable.name + "*"):
                leftover.unlink()

    async def test_fault_15_a_file_damaged_while_running(self, sqlite_url: str) -> None:
        path = sqlite_file(sqlite_url)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()
        data = bytearray(path.read_bytes())
        data[4096:] = os.urandom(len(data) - 4096)
        path.write_bytes(data)
        database = Database(sqlite_url)
        with pytest.raises(DatabaseUnavailable):
            await exchange(database)
        await database.close()

    async def test_dropped_tables(self, database: Database) -> None:
        from sqlalchemy import text

        async with database.write() as session:
            cascade = "" if database.is_sqlite else "CASCADE"
            await session.execute(text(f"DROP TABLE turns {cascade}"))
        with pytest.raises(DatabaseUnavailable):
            await exchange(database)
