"""Attacks on the stored data: file modes, deleted and replaced files, newer databases, and words in error texts."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from models import queries
from models.database import Database
from models.engines import sync_engine
from models.errors import DatabaseUnavailable, NewerDatabase
from models.maintenance.backup import backup, restore
from models.migrate import check_revision, head_revision, upgrade
from models.private_files import readable_by_others, write_text
from models.types import DialogKey
from models.urls import sync_url
from tests.fork_server import ForkServer
from tests.models.test_postgres_variants import guildllama

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)
SECRET = "my secret is xyzzy"


async def begin(database: Database, said: str = "hi") -> int:
    turn = await database.run(lambda session: queries.begin_turn(session, key=KEY, text=said, limit=10, now=NOW))
    return turn.turn_id


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


class TestFileModes:
    async def test_attack_file_modes_whatever_the_umask(self, tmp_path: Path, umask: None) -> None:
        path = tmp_path / "new" / "deep" / "guildllama.db"
        upgrade(f"sqlite:///{path}")
        database = Database(f"sqlite:///{path}")
        await begin(database)
        kept = tmp_path / "kept.db"
        backup(f"sqlite:///{path}", kept)
        restore(kept, f"sqlite:///{path.parent / 'restored.db'}")
        write_text(path.parent / "export.md", "words")
        names = {file.name: mode(file) for file in path.parent.iterdir()}
        assert {"guildllama.db", "guildllama.db-wal", "guildllama.db-shm", "restored.db", "export.md"} <= set(names)
        assert set(names.values()) == {0o600}
        assert mode(kept) == 0o600
        assert [mode(path.parent), mode(path.parent.parent)] == [0o700, 0o700]
        await database.close()

    async def test_attack_file_modes_of_existing_files_are_kept_and_named(
        self, forks: ForkServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "data" / "guildllama.db"
        upgrade(f"sqlite:///{path}")
        path.chmod(0o640)
        path.parent.chmod(0o755)
        (path.parent / "old backup.db").write_bytes(path.read_bytes())
        (path.parent / "old backup.db").chmod(0o644)
        (path.parent / "notes.txt").write_text("not ours")
        database = Database(f"sqlite:///{path}")
        await begin(database)
        assert mode(path) == mode(path.with_name("guildllama.db-wal")) == 0o640
        await database.close()
        found = {file.name: found_mode for file, found_mode in readable_by_others(path)}
        assert found == {"data": 0o755, "guildllama.db": 0o640, "old backup.db": 0o644}
        said = (await guildllama(forks, tmp_path, f"sqlite:///{path}", "doctor")).out
        assert said.count("chmod 6") == 2
        assert "chmod 700" in said


def unlink(path: Path) -> None:
    path.unlink()


def unlink_all(path: Path) -> None:
    for each in path.parent.glob(path.name + "*"):
        each.unlink()


def unlink_wal(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def rename_over(path: Path) -> None:
    shutil.copy(path, path.with_name("copy.db"))
    os.replace(path.with_name("copy.db"), path)


def symlink_over(path: Path) -> None:
    os.replace(path, path.with_name("moved.db"))
    shutil.copy(path.with_name("moved.db"), path.with_name("other.db"))
    path.symlink_to("other.db")


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


class TestFileLost:
    @pytest.mark.parametrize("harm", [unlink, unlink_all, unlink_wal, rename_over, symlink_over, move_folder])
    async def test_attack_a_sqlite_file_deleted_or_replaced(
        self, sqlite_template: Path, tmp_path: Path, harm: Callable[[Path], None]
    ) -> None:
        path = tmp_path / "data" / "guildllama.db"
        path.parent.mkdir()
        shutil.copy(sqlite_template, path)
        database = Database(f"sqlite:///{path}")
        turn_id = await begin(database)

        async def write() -> None:
            async with database.write() as session:
                harm(path)  # after BEGIN: only the check before the commit can see it
                await queries.fail_turn(session, key=KEY, turn_id=turn_id, status="failed", error_id=None, now=NOW)

        with pytest.raises(DatabaseUnavailable, match=r"while the bot was running"):
            await write()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="restarted"):
                await begin(database)
            with pytest.raises(DatabaseUnavailable, match="restarted"):
                async with database.read() as session:
                    await queries.history(session, key=KEY, limit=1)
        with pytest.raises(DatabaseUnavailable, match="restarted"):
            await database.check_file(head_revision())
        if harm is unlink_all:
            assert not path.exists(), "an empty file took the place of the deleted one"
        await database.close()

    @pytest.mark.parametrize("content", ["backup", "empty", "text", "other schema"])
    async def test_attack_a_sqlite_file_overwritten_in_place(
        self, sqlite_url: str, tmp_path: Path, content: str
    ) -> None:
        path = path_of(sqlite_url)
        other = tmp_path / "other.db"
        if content == "backup":
            backup(sqlite_url, other)
        elif content == "other schema":
            upgrade(f"sqlite:///{other}", "0001")
        else:
            other.write_bytes(b"" if content == "empty" else b"no database at all\n" * 1000)
        database = Database(sqlite_url)
        await begin(database)
        await database.truncate_wal()
        await database.check_file(head_revision())
        path.write_bytes(other.read_bytes())
        with pytest.raises(DatabaseUnavailable, match="overwritten while the bot was running"):
            await database.check_file(head_revision())
        with pytest.raises(DatabaseUnavailable):
            await begin(database)
        await database.close()

    async def test_a_healthy_file_is_never_refused(self, sqlite_url: str, tmp_path: Path) -> None:
        database, other = Database(sqlite_url), Database(sqlite_url)
        for number in range(5):
            await begin(database, str(number))
            await begin(other, str(number))
            await database.truncate_wal()
            backup(sqlite_url, tmp_path / f"{number}.db")
            for engine in database.engines:
                await engine.dispose()
            await database.check_file(head_revision())
        await other.close()
        restore(tmp_path / "1.db", sqlite_url, replace=True)
        await database.check_file(head_revision())
        await begin(database)
        await database.close()


class TestNewer:
    @pytest.mark.parametrize("revision", [f"{int(head_revision()) + 1:04}", "9999", "ae1027a6acf"])
    def test_attack_a_database_that_is_newer(self, database_url: str, revision: str) -> None:
        execute(database_url, f"UPDATE alembic_version SET version_num = '{revision}'")
        for act in (check_revision, upgrade):
            with pytest.raises(NewerDatabase, match=f"newer .* revision {revision}.* up to {head_revision()}"):
                act(database_url)

    @pytest.mark.parametrize(
        "command", [("db", "upgrade"), ("db", "check"), ("run",), ("chat", "-m", "hi"), ("doctor",)]
    )
    async def test_attack_every_command_says_so_in_one_line(
        self, forks: ForkServer, sqlite_url: str, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        execute(sqlite_url, "UPDATE alembic_version SET version_num = '0099'")
        done = await guildllama(forks, tmp_path, sqlite_url, *command)
        assert done.code == 78, done.err
        lines = [line for line in (done.out + done.err).splitlines() if "revision 0099" in line]
        assert len(lines) == 1
        assert "newer" in lines[0]
        assert "restore a backup" in lines[0]
        assert "db upgrade" not in lines[0]
        assert "Traceback" not in done.err

    def test_attack_a_backup_that_is_newer(self, sqlite_url: str, tmp_path: Path) -> None:
        backup(sqlite_url, tmp_path / "kept.db")
        with sqlite3.connect(tmp_path / "kept.db") as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0099'")
        connection.close()
        with pytest.raises(NewerDatabase):
            restore(tmp_path / "kept.db", f"sqlite:///{tmp_path / 'target.db'}")


def execute(url: str, statement: str) -> None:
    engine = sync_engine(sync_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


POSTGRES_FAULTS = {
    "check violation": ("UPDATE turns SET status = 'odd', reply = :text", {}),
    "not null": ("UPDATE turns SET user_text = NULL, reply = :text, status = 'done'", {}),
    "bad number": ("UPDATE turns SET total_ms = CAST(:text AS integer)", {}),
    "bad time": ("UPDATE turns SET created_at = CAST(:text AS timestamptz)", {}),
    "bad json": ("SELECT CAST(:text AS jsonb)", {}),
    "bad regex": ("SELECT 'a' ~ ('(' || :text)", {}),
    "bad unit": ("SELECT date_trunc(:text, now())", {}),
    "unique": ("INSERT INTO users (id, first_seen_at) SELECT id, first_seen_at FROM users WHERE :text <> ''", {}),
    "nul": ("UPDATE turns SET error_id = :text", {"text": f"{SECRET}\0"}),
    "surrogate": ("UPDATE turns SET error_id = :text", {"text": f"{SECRET}\ud800"}),
}


class TestWords:
    @pytest.mark.parametrize("fault", POSTGRES_FAULTS)
    async def test_attack_words_in_errors_of_postgres(self, postgres_url: str, fault: str) -> None:
        statement, values = POSTGRES_FAULTS[fault]
        await self.raises_without_words(postgres_url, statement, {"text": SECRET, **values})

    async def test_attack_words_in_errors_of_a_postgres_trigger(self, postgres_url: str) -> None:
        execute(
            postgres_url,
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no: %%', NEW.reply USING DETAIL = NEW.reply, HINT = NEW.reply; END $$",
        )
        execute(postgres_url, "CREATE TRIGGER refuse BEFORE UPDATE ON turns FOR EACH ROW EXECUTE FUNCTION refuse()")
        await self.raises_without_words(postgres_url, "UPDATE turns SET reply = :text", {"text": SECRET})

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE turns SET status = 'odd', reply = :text",
            "SELECT CAST(CAST(:text AS BLOB) || x'ff' AS TEXT)",
            "SELECT json_extract(:text, '$.a')",
            "SELECT * FROM turns WHERE user_text MATCH :text",
        ],
    )
    async def test_attack_words_in_errors_of_sqlite(self, sqlite_url: str, statement: str) -> None:
        await self.raises_without_words(sqlite_url, statement, {"text": SECRET})

    async def raises_without_words(self, url: str, statement: str, values: dict[str, str]) -> None:
        """Neither engine's error has the words anywhere in its traceback."""
        database = Database(url, echo=True)
        await begin(database, SECRET)
        with pytest.raises((SQLAlchemyError, DatabaseUnavailable, UnicodeError)) as caught:
            async with database.write() as session:
                await session.execute(text(statement), values)
        await database.close()
        assert "xyzzy" not in "".join(traceback.format_exception(caught.value))
        engine = sync_engine(sync_url(url))
        with pytest.raises((SQLAlchemyError, UnicodeError)) as caught_too, engine.begin() as connection:
            connection.execute(text(statement), values).all()
        engine.dispose()
        assert "xyzzy" not in "".join(traceback.format_exception(caught_too.value))


@pytest.mark.parametrize("what", ["folder", "pipe", "device"])
def test_attack_a_database_that_is_no_regular_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.db"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    for use in (upgrade, check_revision):
        with pytest.raises(DatabaseUnavailable, match="not a regular file"):
            use(f"sqlite:///{path}")
