"""`guildllama db ...` and `guildllama cleanup` as an operator types them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.settings import Settings
from bot.terminal.db_commands import cleanup_command, db_app
from models import queries
from models.database import Database
from models.migrate import head_revision
from models.queries.dialogs.conversations import new_conversation
from models.types import DialogKey, TurnResult
from tests.bot.chat.chat_kit import ANN, say
from tests.bot.stored_turns import add_turn
from tests.fakes.engine import FakeEngine

NOW = datetime.now(UTC)

app = typer.Typer()
app.add_typer(db_app, name="db")
app.command("cleanup")(cleanup_command)


@pytest.fixture
def filled_url(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Two dialogs of one member in two guilds; the second is old, and one of its turns failed."""

    async def fill() -> None:
        database = Database(database_url)
        for guild, at in ((100, NOW), (200, NOW - timedelta(days=20))):
            key = DialogKey(guild, 7)
            async with database.write() as session:
                for number in range(2):
                    turn = await queries.begin_turn(session, key=key, text=f"[red]hi[/red] {number}", limit=9, now=at)
                    done = TurnResult("# not a heading\nline two", 10, 5, "stop", 1, 2)
                    await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=done, now=at)
                broken = await queries.begin_turn(session, key=key, text="fails \x1b[2J", limit=9, now=at)
                await queries.fail_turn(
                    session, key=key, turn_id=broken.turn_id, status="failed", error_id="e-77", now=at
                )
        await database.close()

    asyncio.run(fill())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", database_url)
    return database_url


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def run_json(*arguments: str) -> object:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.usefixtures("filled_url")
class TestLooking:
    def test_stats(self) -> None:
        totals = run_json("db", "stats")
        assert isinstance(totals, dict)
        assert (totals["guilds"], totals["users"], totals["dialogs"], totals["turns"]) == (2, 1, 2, 6)
        assert (totals["done_turns"], totals["failed_turns"], totals["prompt_tokens"]) == (4, 2, 40)
        assert "done turns" in run("db", "stats").stdout

    def test_guilds(self) -> None:
        lines = run_json("db", "guilds")
        assert isinstance(lines, list)
        assert [(line["guild_id"], line["members"], line["turns"]) for line in lines] == [(100, 1, 3), (200, 1, 3)]
        assert "200" in run("db", "guilds").stdout

    def test_dialogs(self) -> None:
        lines = run_json("db", "dialogs")
        assert isinstance(lines, list)
        assert [line["guild_id"] for line in lines] == [100, 200]  # the last active first
        assert [line["turns"] for line in lines] == [3, 3]
        assert run_json("db", "dialogs", "--guild", "200") == [lines[1]]
        assert run_json("db", "dialogs", "--user", "8") == []
        assert "open" in run("db", "dialogs", "--user", "7").stdout

    def test_show_prints_text_as_it_is(self) -> None:
        shown = run("db", "show", "1")
        assert "[red]hi[/red] 0" in shown.stdout
        assert "fails ␛[2J" in shown.stdout  # seen by the operator, without effect on the terminal
        data = run_json("db", "show", "1")
        assert isinstance(data, dict)
        assert [turn["status"] for turn in data["turns"]] == ["done", "done", "failed"]
        assert data["turns"][2]["error_id"] == "e-77"

    def test_export(self, tmp_path: Path) -> None:
        markdown = run("db", "export", "1").stdout
        assert "> # not a heading\n> line two" in markdown
        assert "*No reply: failed.*" in markdown
        assert json.loads(run("db", "export", "1", "--format", "json").stdout)["dialog"]["dialog_id"] == 1
        assert run("db", "export", "1", "-o", str(tmp_path / "d.md")).exit_code == 0
        assert (tmp_path / "d.md").read_text() == markdown

    def test_names_parked_and_shared_dialogs(self, filled_url: str) -> None:
        async def fill() -> None:
            database = Database(filled_url)
            key = DialogKey(100, 7, 5, shared=True)
            async with database.write() as session:
                await new_conversation(session, key=key, name="[bold]Travel\x1b[2J", now=NOW)
                await add_turn(session, key, NOW, "Where to?")
                await new_conversation(session, key=key, name=None, now=NOW)
            await database.close()

        asyncio.run(fill())
        lines = run_json("db", "dialogs", "--user", "0")
        assert isinstance(lines, list)
        parked = next(line for line in lines if line["name"])
        assert (parked["name"], parked["parked_at"] is None) == ("[bold]Travel\x1b[2J", False)
        table = run("db", "dialogs").stdout
        for word in ("shared", "parked", "[bold]Travel␛"):
            assert word in table
        shown = run("db", "show", str(parked["dialog_id"])).stdout
        assert "“[bold]Travel␛[2J”: shared in channel 5 in guild 100, parked" in shown
        assert "Shared in channel 5 in guild 100, parked." in run("db", "export", str(parked["dialog_id"])).stdout
        totals = run_json("db", "stats")
        assert isinstance(totals, dict)
        assert (totals["open_dialogs"], totals["parked_dialogs"]) == (3, 1)

    def test_a_dialog_that_is_not_there(self) -> None:
        result = run("db", "show", "99")
        assert result.exit_code == 1
        assert "no dialog 99" in result.stderr

    def test_check(self) -> None:
        assert run_json("db", "check") == {
            "ok": True, "revision": head_revision(), "integrity": [], "orphans": {}, "stuck_turns": [],
        }  # fmt: skip
        assert "Sound" in run("db", "check").stdout


class TestChecking:
    def test_stuck_turns_are_named(self, filled_url: str) -> None:
        async def crash() -> int:
            database = Database(filled_url)
            async with database.write() as session:
                turn_id = await add_turn(session, DialogKey(1, 1), NOW, reply=None)
            await database.close()
            return turn_id

        turn_id = asyncio.run(crash())
        result = run("db", "check", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["stuck_turns"] == [turn_id]
        assert run("cleanup").exit_code == 0
        assert run("db", "check").exit_code == 0


class TestCleanup:
    @pytest.mark.usefixtures("filled_url")
    def test_dry_run_then_run(self) -> None:
        expected = run_json("cleanup", "--dry-run")
        assert isinstance(expected, dict)
        assert (expected["dry_run"], expected["ended_dialogs"]) == (True, 1)
        assert run_json("cleanup", "--dry-run") == expected
        done = run_json("cleanup")
        assert isinstance(done, dict)
        assert (done["dry_run"], done["ended_dialogs"]) == (False, 1)
        again = run_json("cleanup")
        assert isinstance(again, dict)
        assert again["ended_dialogs"] == 0
        assert "ended dialogs" in run("cleanup", "--dry-run").stdout


class TestRefusals:
    """One line on stderr, exit code 78, no traceback, nothing created."""

    def assert_refused(self, *arguments: str) -> str:
        result = run(*arguments)
        assert result.exit_code == 78, result.output
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert "GUILDLLAMA_" in result.stderr
        return result.stderr

    @pytest.fixture(autouse=True)
    def in_an_empty_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)

    def test_fault_44_no_database_yet(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
        for command in (["db", "stats"], ["db", "check"], ["cleanup"], ["db", "backup", "b.db"]):
            assert "guildllama db upgrade" in self.assert_refused(*command)
        assert list(tmp_path.iterdir()) == []

    def test_fault_44_a_server_that_is_away_or_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/x")
        assert "hunter2" not in self.assert_refused("db", "stats")
        assert "hunter2" not in self.assert_refused("db", "upgrade")

    def test_fault_15_damaged(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "x.db").write_bytes(b"no database at all, whatever its name says" * 100)
        monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", f"sqlite:///{tmp_path}/x.db")
        for command in ("stats", "check", "upgrade"):
            assert "not a database" in self.assert_refused("db", command)

    def test_a_url_that_cannot_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", "mysql://x/y")
        self.assert_refused("db", "stats")

    def test_upgrade_creates_what_is_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", f"sqlite:///{tmp_path}/deep/down/x.db")
        for _ in range(2):
            assert f"is at revision {head_revision()}" in run("db", "upgrade").stdout
        assert run("db", "check").exit_code == 0


def test_the_prompt_of_a_turn(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ids: list[int] = []

    async def talk() -> None:
        database = Database(database_url)
        settings = Settings(_env_file=None, persona="You are [red]a test[/red].")
        async with FakeEngine() as engine, EngineClient(engine.url) as client:
            chat = ChatService(database=database, engine=client, settings=settings)
            for text in ("Hello\x1b[2J", "And now?"):
                ids.append((await say(chat, text)).turn_id)
            await chat.close(0)
        await database.close()

    async def forget() -> None:
        database = Database(database_url)
        async with database.write() as session:
            assert await queries.forget_turn(session, key=ANN, turn_id=ids[0])
        await database.close()

    asyncio.run(talk())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", database_url)
    shown = run("db", "prompt", str(ids[1])).stdout
    assert shown.endswith("\nExactly as sent.\n")
    assert "You are [red]a test[/red]." in shown
    assert "\x1b" not in shown
    found = run_json("db", "prompt", str(ids[1]))
    assert isinstance(found, dict)
    assert (found["exact"], found["differences"], found["of_reply_in_use"]) == (True, [], True)
    assert [message["role"] for message in found["messages"]] == ["system", "user", "assistant", "user"]
    asyncio.run(forget())
    shown = run("db", "prompt", str(ids[1])).stdout
    assert shown.endswith("\nNot exactly as sent: 1 of 1 pairs of the conversation are gone.\n")
    missing = run("db", "prompt", str(ids[0]))
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
    assert "no prompt of turn" in missing.stderr
