"""`guildllama db upgrade` backs up an older database before it changes it, on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot.terminal.db_commands import db_app
from models.database import Database
from models.errors import DatabaseError, DatabaseUnavailable
from models.maintenance import upgrade_backup
from models.maintenance.backup import restore
from models.migrate import check_revision, downgrade, head_revision, upgrade
from models.tables import Turn
from tests.bot.stored_turns import add_turn
from tests.bot.terminal.test_backup import KEY, NOW, contents, filled
from tests.migrations.rows import run

OLD = "0012"


def aged(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with rows, one revision behind, which the settings name. Backups go below `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    filled(url)
    run(url, "DELETE FROM turns WHERE id = 5")
    downgrade(url, OLD)
    monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", url)
    return url


@pytest.fixture
def old_url(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return aged(sqlite_url, tmp_path, monkeypatch)


def backups(folder: Path) -> list[Path]:
    return sorted((folder / "backups").iterdir()) if (folder / "backups").exists() else []


def upgraded(*arguments: str) -> str:
    done = CliRunner().invoke(db_app, ["upgrade", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_backup_restores(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old_url = aged(database_url, tmp_path, monkeypatch)
    assert f"is at revision {head_revision()}" in upgraded()
    check_revision(old_url)
    [file] = backups(tmp_path)
    assert file.name.startswith(f"guildllama-{OLD}-")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert upgrade_backup.old_revision(f"sqlite:///{file}") == OLD
    restored = f"sqlite:///{tmp_path / 'restored.db'}"
    restore(file, restored)
    assert asyncio.run(contents(restored)) == asyncio.run(contents(old_url))
    assert asyncio.run(next_turn_id(restored)) == 6  # the id of the deleted turn is not given again

    assert f"is at revision {head_revision()}" in upgraded()  # nothing to do: no second backup
    assert backups(tmp_path) == [file]


async def next_turn_id(url: str) -> int:
    database = Database(url)
    async with database.write() as session:
        await add_turn(session, KEY, NOW, "q", "a", interaction_id=99)
    async with database.read() as session:
        found = await session.get(Turn, 6)
    await database.close()
    return 0 if found is None else found.id


def test_none_where_nobody_wants_one(old_url: str, tmp_path: Path):
    upgraded("--no-backup")
    assert backups(tmp_path) == []


def test_into_another_folder(old_url: str, tmp_path: Path):
    upgraded("--backup-dir", str(tmp_path / "elsewhere"))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_an_empty_database_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", f"sqlite:///{tmp_path / 'new.db'}")
    upgraded()
    assert backups(tmp_path) == []


@pytest.mark.parametrize("error", [DatabaseUnavailable("the disk is full"), DatabaseError("rows are missing")])
def test_a_backup_that_fails_leaves_the_database_as_it_was(
    error: Exception, old_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(part: Path) -> None:
        raise error

    monkeypatch.setattr("models.maintenance.backup._check_and_sync", fail)
    done = CliRunner().invoke(db_app, ["upgrade"])
    assert done.exit_code == 78
    assert str(error) in done.output
    assert upgrade_backup.old_revision(old_url) == OLD
    assert backups(tmp_path) == []


def test_a_database_that_is_not_what_its_revision_says(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Such as one that a side branch migrated: said in one line, before anything is changed."""
    url = aged(postgres_url, tmp_path, monkeypatch)
    run(url, "ALTER TABLE turns DROP COLUMN reply")
    done = CliRunner().invoke(db_app, ["upgrade"])
    assert done.exit_code == 78
    assert "the table turns lacks columns of its revision 0012: reply" in done.output
    assert upgrade_backup.old_revision(url) == OLD
    assert backups(tmp_path) == []


def test_a_folder_that_cannot_be_made(old_url: str, tmp_path: Path):
    (tmp_path / "file").touch()
    done = CliRunner().invoke(db_app, ["upgrade", "--backup-dir", str(tmp_path / "file" / "x")])
    assert done.exit_code == 78
    assert upgrade_backup.old_revision(old_url) == OLD


@pytest.mark.parametrize("revision", [pytest.param(f"{number:04}", marks=pytest.mark.long) for number in range(4, 12)])
def test_every_revision(revision: str, database_url: str, tmp_path: Path):
    filled(database_url)
    downgrade(database_url, revision)
    file = upgrade_backup.backup_before_upgrade(database_url, tmp_path / "b", revision)
    upgrade(database_url)
    restore(file, f"sqlite:///{tmp_path / 'restored.db'}")
    assert asyncio.run(contents(f"sqlite:///{tmp_path / 'restored.db'}")) == asyncio.run(contents(database_url))
    assert os.listdir(tmp_path / "b") == [file.name]
