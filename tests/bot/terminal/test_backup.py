"""Backup while running, restore into either database, copying with counts and checksums."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot.terminal.db_commands import db_app
from models import queries
from models.database import Database
from models.errors import DatabaseError, DatabaseUnavailable, ForeignDatabase, RevisionError
from models.maintenance.backup import backup, restore
from models.maintenance.transfer import copy_database
from models.migrate import check_revision, upgrade
from models.queries import inspection
from models.types import DialogKey, GuildSettings, RolePolicy
from tests.bot.stored_turns import add_turn

NOW = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
KEY = DialogKey(2**62, 7)


async def fill(database: Database, *, turns: int = 5) -> None:
    async with database.write() as session:
        for number in range(turns):
            await add_turn(session, KEY, NOW, f"q{number} 🦙", f"a{number}", interaction_id=number + 1)
        await queries.set_persona(session, key=KEY, level="guild", name="N", prompt="P", author_id=7, now=NOW)
        settings = GuildSettings(
            own_personas="roles",
            channels=frozenset({1, 2}),
            roles=(RolePolicy(3, True, 4, True, 5, 6, 7),),
            locked_channels=frozenset({5}),
            minute_messages=8,
            guild_daily_tokens=9,
            filter_words=("darn*", "바보"),
            moderation=True,
            moderation_thresholds=(("violence", 0.25),),
        )
        await queries.set_guild_settings(session, key=KEY, settings=settings, actor_id=7, now=NOW)


def filled(url: str) -> None:
    async def act() -> None:
        database = Database(url)
        await fill(database)
        await database.close()

    asyncio.run(act())


async def contents(url: str) -> tuple[dict[str, int], list[str], GuildSettings]:
    database = Database(url)
    async with database.read() as session:
        counts = await inspection.table_counts(session)
        texts = [pair.user for pair in await queries.history(session, key=KEY, limit=99)]
        settings = await queries.guild_settings(session, key=KEY)
    await database.close()
    return counts, texts, settings


@pytest.fixture(params=["sqlite", "postgres"])
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database to copy into."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'target.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


class TestCopy:
    def test_every_row_arrives(self, database_url: str, target_url: str) -> None:
        filled(database_url)
        tables = {table.name: table for table in copy_database(database_url, target_url)}
        assert (tables["turns"].rows, tables["guild_roles"].rows, tables["users"].rows) == (5, 1, 1)
        assert asyncio.run(contents(target_url)) == asyncio.run(contents(database_url))

    def test_ids_go_on_where_the_source_was(self, database_url: str, target_url: str) -> None:
        async def delete_the_newest_and_copy() -> tuple[int, int]:
            database = Database(database_url)
            await fill(database)
            async with database.write() as session:
                newest = await queries.begin_turn(session, key=KEY, text="gone", limit=0, now=NOW)
                await queries.fail_turn(
                    session, key=KEY, turn_id=newest.turn_id, status="failed", error_id=None, now=NOW
                )
                assert await queries.forget_turn(session, key=KEY, turn_id=newest.turn_id)
            await database.close()
            await asyncio.to_thread(copy_database, database_url, target_url)
            moved = Database(target_url)
            async with moved.write() as session:
                begun = await queries.begin_turn(session, key=KEY, text="new", limit=0, now=NOW)
            await moved.close()
            return newest.turn_id, begun.turn_id

        deleted, fresh = asyncio.run(delete_the_newest_and_copy())
        assert fresh > deleted

    def test_a_target_with_rows_is_refused(self, database_url: str, target_url: str) -> None:
        filled(database_url)
        copy_database(database_url, target_url)
        with pytest.raises(DatabaseError, match="already holds rows"):
            copy_database(database_url, target_url)

    def test_onto_itself(self, database_url: str) -> None:
        with pytest.raises(DatabaseError, match="same database"):
            copy_database(database_url, database_url)

    def test_from_an_old_schema(self, empty_url: str, target_url: str) -> None:
        upgrade(empty_url, "0001")
        if empty_url != target_url:
            with pytest.raises(RevisionError):
                copy_database(empty_url, target_url)


class TestBackup:
    async def test_while_the_bot_writes(self, database: Database, tmp_path: Path) -> None:
        await fill(database)
        stop = False

        async def chat() -> int:
            number = 0
            while not stop:
                number += 1
                async with database.write() as session:
                    await add_turn(session, DialogKey(5, number % 9), NOW)
            return number

        chatting = asyncio.create_task(chat())
        await asyncio.sleep(0.05)
        size = await asyncio.to_thread(backup, database.url, tmp_path / "b.db")
        stop = True
        assert await chatting > 0
        assert size > 0
        url = f"sqlite:///{tmp_path / 'b.db'}"
        check_revision(url)
        backed_up = Database(url)
        async with backed_up.read() as session:
            totals = await inspection.totals(session)
            assert await inspection.integrity_problems(session) == ()
            assert await inspection.orphans(session) == {}
        await backed_up.close()
        assert totals["done_turns"] == totals["turns"] >= 5

    def test_restore_into_either_kind(self, database_url: str, target_url: str, tmp_path: Path) -> None:
        filled(database_url)
        backup(database_url, tmp_path / "b.db")
        before = (tmp_path / "b.db").read_bytes()
        restore(tmp_path / "b.db", target_url)
        assert asyncio.run(contents(target_url)) == asyncio.run(contents(database_url))
        assert (tmp_path / "b.db").read_bytes() == before

    def test_restore_replaces_only_when_asked(self, database_url: str, tmp_path: Path) -> None:
        filled(database_url)
        backup(database_url, tmp_path / "b.db")
        before = asyncio.run(contents(database_url))

        async def more() -> None:
            database = Database(database_url)
            async with database.write() as session:
                await queries.begin_turn(session, key=KEY, text="later", limit=0, now=NOW)
            await database.close()

        asyncio.run(more())
        with pytest.raises(DatabaseError, match="already holds rows"):
            restore(tmp_path / "b.db", database_url)
        restore(tmp_path / "b.db", database_url, replace=True)
        assert asyncio.run(contents(database_url)) == before

    def test_an_older_backup_is_migrated(self, tmp_path: Path, target_url: str) -> None:
        old = tmp_path / "old.db"
        upgrade(f"sqlite:///{old}", "0001")
        with sqlite3.connect(old) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("INSERT INTO users (id, first_seen_at) VALUES (7, '2026-01-01 00:00:00.000000')")
        connection.close()
        tables = {table.name: table.rows for table in restore(old, target_url)}
        assert tables["users"] == 1
        check_revision(target_url)

    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda path: path.write_text("not a backup " * 400), DatabaseUnavailable),
            (lambda path: sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close(), ForeignDatabase),
            (lambda path: None, DatabaseUnavailable),
        ],
        ids=["text", "another program's", "missing"],
    )
    def test_what_is_no_backup(
        self, sqlite_url: str, tmp_path: Path, make: Callable[[Path], object], error: type[DatabaseError]
    ) -> None:
        make(tmp_path / "b.db")
        filled(sqlite_url)
        before = asyncio.run(contents(sqlite_url))
        with pytest.raises(error):
            restore(tmp_path / "b.db", sqlite_url, replace=True)
        assert asyncio.run(contents(sqlite_url)) == before

    def test_a_file_that_exists_is_kept(self, sqlite_url: str, tmp_path: Path) -> None:
        (tmp_path / "b.db").write_text("precious")
        with pytest.raises(DatabaseError, match="exists already"):
            backup(sqlite_url, tmp_path / "b.db")
        assert (tmp_path / "b.db").read_text() == "precious"

    def test_a_disk_that_is_full_leaves_no_half_backup(self, sqlite_url: str, tmp_path: Path) -> None:
        with pytest.raises(DatabaseUnavailable):
            backup(sqlite_url, tmp_path / "none" / "b.db")
        assert not (tmp_path / "none").exists()


class TestCommands:
    def test_backup_restore_copy_rekey(self, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        filled(sqlite_url)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", sqlite_url)

        def run(*arguments: str) -> str:
            result = CliRunner().invoke(db_app, list(arguments))
            assert result.exit_code == 0, result.output
            return result.stdout

        assert "checked" in run("backup", "b.db")
        assert "turns" in run("copy", sqlite_url, f"sqlite:///{tmp_path}/copy.db")
        assert "turns" in run("restore", "b.db", "--replace")
        assert "turns" in run("rekey")
        refused = CliRunner().invoke(db_app, ["restore", "b.db"])
        assert refused.exit_code == 78
        assert refused.stderr.count("\n") == 1
