"""The command as a user runs it: a process, its two streams and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bot.cli import app
from bot.errors import PersonaExists, PersonaTooLong, UnknownPersona
from bot.settings import Settings
from tests.bot.processes import command_lines, parent, pids_naming, socket_folder
from tests.fakes.engine import FakeEngine
from tests.fork_server import ForkServer, Outcome

Persona = Callable[..., Result]

GUILDLLAMA = Path(sys.executable).parent / "guildllama"


class Shell:
    """Runs guildllama in its own folder, without our settings in the environment."""

    def __init__(self, forks: ForkServer, folder: Path) -> None:
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("GUILDLLAMA_")}
        self.env |= {"OMP_NUM_THREADS": "1", "COLUMNS": "160", "GUILDLLAMA_TEMPERATURE": "0"}
        self._forks = forks

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start a new Python process."""
        return await asyncio.create_subprocess_exec(
            GUILDLLAMA,
            *arguments,
            cwd=self.folder,
            env=self.env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str, stdin: str = "", seconds: float = 60) -> Outcome:
        return await self._forks.run(*arguments, folder=self.folder, environment=self.env, stdin=stdin, seconds=seconds)


@pytest.fixture
def shell(forks: ForkServer, tmp_path: Path) -> Shell:
    return Shell(forks, tmp_path)


@pytest.fixture
async def engine(shell: Shell) -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as server:
        shell.env["GUILDLLAMA_ENGINE_URL"] = server.url
        yield server


class TestChat:
    async def test_piped(self, shell: Shell, engine: FakeEngine):
        done = await shell("chat", stdin="Hello, who are you?\nWhat did I just ask?\n/quit\nnot this\n")
        assert done == Outcome(0, "You said: Hello, who are you?\nYou said: What did I just ask?\n", "")
        assert [message["content"] for message in engine.requests[1].messages[1:]] == [
            "Hello, who are you?",
            "You said: Hello, who are you?",
            "What did I just ask?",
        ]
        assert (shell.folder / "data" / "guildllama.db").exists()
        table = await shell("db", "dialogs")
        assert table.code == 0
        assert "2" in table.out

    async def test_end_of_input_is_quit(self, shell: Shell, engine: FakeEngine):
        assert (await shell("chat", stdin="Hello")).out == "You said: Hello\n"
        assert (await shell("chat", stdin="")).code == 0

    async def test_one_message(self, shell: Shell, engine: FakeEngine):
        assert await shell("chat", "-m", "Hello") == Outcome(0, "You said: Hello\n", "")
        engine.fail(500)
        failed = await shell("chat", "-m", "Hello")
        assert failed.code == 1
        assert failed.err == "guildllama: The model cannot be reached right now. Please try again in a moment.\n"

    async def test_as_any_tenant(self, shell: Shell, engine: FakeEngine):
        for guild, user in (("1", "10"), ("2", "10"), ("1", "10")):
            await shell("chat", "--guild", guild, "--user", user, "-m", "hi")
        assert [len(request.messages) for request in engine.requests] == [2, 2, 4]

    async def test_sigterm_while_a_reply_runs(self, shell: Shell, engine: FakeEngine):
        engine.hang("half")
        process = await shell.start("chat", "-m", "hang")
        await asyncio.wait_for(engine.arrived(1), 30)
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 143
        assert b"Traceback" not in err
        with sqlite3.connect(shell.folder / "data" / "guildllama.db") as connection:
            assert connection.execute("SELECT status FROM turns").fetchall() == [("interrupted",)]
        connection.close()


class TestCrash:
    @pytest.mark.parametrize(
        ("point", "status"), [("after_begin_turn", "pending"), ("before_finish", "pending"), ("after_finish", "done")]
    )
    async def test_killed_at(self, shell: Shell, engine: FakeEngine, point: str, status: str):
        assert (await shell("chat", "-m", "before")).code == 0
        shell.env["GUILDLLAMA_CRASH_AT"] = point
        assert (await shell("chat", "-m", "in the middle")).code == -signal.SIGKILL
        del shell.env["GUILDLLAMA_CRASH_AT"]
        with sqlite3.connect(shell.folder / "data" / "guildllama.db") as connection:
            assert connection.execute("SELECT status FROM turns").fetchall() == [("done",), (status,)]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        assert (await shell("chat", "-m", "after")).code == 0
        remembered = [message["content"] for message in engine.requests[-1].messages if message["role"] == "user"]
        assert remembered == ["before", *["in the middle"] * (status == "done"), "after"]


class TestRealModel:
    """The embedded model, our own engine, nothing faked."""

    async def test_two_answers_from_a_pipe(self, shell: Shell):
        shell.env["GUILDLLAMA_MAX_REPLY_TOKENS"] = "24"
        done = await shell(
            "chat", stdin="What is the capital of France?\nSay it again.\n/history\n/quit\n", seconds=240
        )
        assert done.code == 0, done.err
        assert "Paris" in done.out
        assert done.out.count("you: ") == 2
        with sqlite3.connect(shell.folder / "data" / "guildllama.db") as connection:
            rows = connection.execute("SELECT status, prompt_tokens, completion_tokens FROM turns").fetchall()
        connection.close()
        assert [row[0] for row in rows] == ["done", "done"]
        assert rows[1][1] > rows[0][1] + rows[0][2] > 0  # the second prompt holds the first pair

    async def test_no_engine_is_left(self, shell: Shell):
        process = await shell.start("chat")
        folder = await _engine_folder(process.pid)
        process.kill()
        await process.wait()
        for _ in range(100):
            if not pids_naming(folder):
                break
            await asyncio.sleep(0.1)
        assert pids_naming(folder) == []
        shutil.rmtree(folder, ignore_errors=True)


async def _engine_folder(bot: int) -> str:
    """The folder of this bot's engine socket, once its guard runs."""
    for _ in range(300):
        for pid, words in command_lines().items():
            folder = socket_folder(words)
            with contextlib.suppress(OSError):
                if folder is not None and parent(pid) == bot:
                    return folder
        await asyncio.sleep(0.05)
    raise AssertionError("the engine was not started")


class TestRefusals:
    """One line, exit code 78, no traceback."""

    @pytest.mark.parametrize(
        ("arguments", "env", "expected"),
        [
            (("run",), {}, "GUILDLLAMA_DISCORD_TOKEN: is not set"),
            (("run",), {"GUILDLLAMA_DISCORD_TOKEN": " "}, "GUILDLLAMA_DISCORD_TOKEN: is not set"),
            (("chat",), {"GUILDLLAMA_TEMPERATURE": "hot"}, "GUILDLLAMA_TEMPERATURE: "),
            (("chat",), {"GUILDLLAMA_DATABASE_URL": "mysql://x/y"}, "GUILDLLAMA_DATABASE_URL: "),
            (("chat",), {"GUILDLLAMA_DATABASE_URL": "sqlite:////proc/nowhere/x.db"}, "GUILDLLAMA_DATABASE_URL: "),
            (
                ("chat",),
                {"GUILDLLAMA_DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/x"},
                "GUILDLLAMA_DATABASE_URL: ",
            ),
            (("chat", "-m", "hi"), {"GUILDLLAMA_MODEL": "/no/such/model"}, "/no/such/model"),
            (("persona", "set", "x"), {}, "Name a --guild"),
            (("db", "stats"), {"GUILDLLAMA_DATABASE_URL": "mysql://x/y"}, "GUILDLLAMA_DATABASE_URL: "),
        ],
    )
    async def test_config(self, shell: Shell, arguments: tuple[str, ...], env: dict[str, str], expected: str):
        shell.env |= env
        done = await shell(*arguments, stdin="hi\n")
        lines = [line for line in done.err.splitlines() if line != "Loading the model ..."]
        assert done.code == 78, done.err
        assert len(lines) == 1
        assert lines[0].startswith("guildllama: ")
        assert expected in lines[0]
        assert "secret" not in done.err
        assert done.out == ""

    @pytest.mark.parametrize("change", ["older", "newer", "foreign", "damaged"])
    async def test_a_database_that_is_not_ours_as_it_is(
        self, shell: Shell, engine: FakeEngine, sqlite_template: Path, change: str
    ):
        path = shell.folder / "data" / "guildllama.db"
        path.parent.mkdir()
        if change == "damaged":
            path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 8192)
        elif change == "foreign":
            _change(path, "CREATE TABLE invoices (id INTEGER)")
        else:
            shutil.copy(sqlite_template, path)
            _change(path, f"UPDATE alembic_version SET version_num = '{'0001' if change == 'older' else '9999'}'")
        before = path.read_bytes()
        done = await shell("chat", "-m", "hi")
        assert done.code == 78, done.err
        assert done.err.startswith("guildllama: GUILDLLAMA_DATABASE_URL: ")
        assert done.err.count("\n") == 1
        if change == "older":
            assert "guildllama db upgrade" in done.err
        if change == "newer":
            assert "newer than this program" in done.err
            assert "restore a backup" in done.err
        assert path.read_bytes() == before

    async def test_unknown_variables_are_a_warning(self, shell: Shell, engine: FakeEngine):
        shell.env["GUILDLLAMA_MAXCHATLOGS"] = "3"
        done = await shell("chat", "-m", "hi")
        assert done.code == 0
        assert "did you mean GUILDLLAMA_MAX_CHAT_LOGS?" in done.err


def _change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "command",
    ["chat -m hi --guild", "chat -m hi --user", "persona show -g", "db dialogs --guild", "db show", "db export"],
)
def test_an_id_that_no_database_can_store_is_wrong_usage(command: str):
    result = CliRunner().invoke(app, [*command.split(), str(1 << 63)])
    assert result.exit_code == 2
    assert "9223372036854775807" in result.output


class TestPersona:
    """In this process: these commands need no engine."""

    @pytest.fixture
    def persona(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Persona:
        monkeypatch.chdir(tmp_path)
        return lambda *arguments, stdin="": CliRunner().invoke(app, ["persona", *arguments], input=stdin)

    def test_set_show_clear(self, persona: Persona):
        assert persona("set", "You are a pirate.", "--guild", "1", "--name", "Hook").exit_code == 0
        assert persona("set", "-", "-g", "1", "-u", "10", stdin="You are a parrot.\n").exit_code == 0
        assert persona("show", "-g", "1", "-u", "11").output == "You are a pirate.\n(guild persona 'Hook', version 1)\n"
        assert persona("show", "-g", "1", "-u", "10").output.startswith("You are a parrot.\n(member persona")
        assert persona("show", "-g", "2", "-u", "10").output.startswith(Settings(_env_file=None).persona)
        assert persona("clear", "-g", "1", "-u", "10").output == "Cleared.\n"
        assert persona("clear", "-g", "1", "-u", "10").output == "There was none.\n"
        assert persona("show", "-g", "1", "-u", "10").output.startswith("You are a pirate.")

    def test_a_library(self, persona: Persona):
        assert persona("list", "-g", "1").output == "There is none.\n"
        assert persona("create", "Hook", "You are a pirate.", "-g", "1").output == "Stored as 'Hook'.\n"
        again = persona("create", "hook", "-", "-g", "1", stdin="You are a nun.")
        assert isinstance(again.exception, PersonaExists)
        for number in range(12):
            persona("set", "You are a pirate.", "-g", "1", "-u", "10", "--name", f"Own {number:02}")
        assert persona("list", "-g", "1").output == "Hook\n"
        own = persona("list", "-g", "1", "-u", "10").output.splitlines()
        assert (len(own), own[0], own[-1]) == (12, "Own 00", "Own 11 (member)")
        persona("set", "You are a captain.", "-g", "1", "--name", "Hook")
        assert persona("list", "-g", "1").output == "Hook (guild)\n"
        assert persona("delete", "HOOK", "-g", "1").output == "Deleted.\n"
        assert isinstance(persona("delete", "HOOK", "-g", "1").exception, UnknownPersona)
        assert persona("show", "-g", "1").output.startswith(Settings(_env_file=None).persona)

    def test_too_long(self, persona: Persona):
        persona("set", "the old one", "-g", "1")
        refused = persona("set", "-", "-g", "1", stdin="x" * 100_000)
        assert isinstance(refused.exception, PersonaTooLong)
        assert "100,000 characters, and the limit is 4,000" in refused.exception.user_message
        assert persona("show", "-g", "1").output.startswith("the old one\n")


class TestDoctor:
    async def test_well(self, shell: Shell, engine: FakeEngine):
        shell.env["GUILDLLAMA_DISCORD_TOKEN"] = "aaaa.bbbb.cccc"
        done = await shell("doctor")
        assert done.code == 0, done.out
        assert f"{engine.url} serves fake-model, context 4,096 tokens" in done.out
        assert "is empty; the first start creates the tables" in done.out
        assert "aaaa" not in done.out

    async def test_ill(self, shell: Shell, engine: FakeEngine):
        await engine.stop()
        shell.env["GUILDLLAMA_DISCORD_TOKEN"] = "no token"
        shell.env["GUILDLLAMA_DATABASE_URL"] = "postgresql://me:secret@127.0.0.1:1/x"
        done = await shell("doctor")
        assert done.code == 1
        assert done.out.count("bad ") == 3
        assert "secret" not in done.out

    async def test_bad_setting(self, shell: Shell):
        shell.env["GUILDLLAMA_TOP_P"] = "7"
        done = await shell("doctor")
        assert done.code == 1
        assert "GUILDLLAMA_TOP_P" in done.out

    async def test_what_watches_the_bot(self, shell: Shell, engine: FakeEngine):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            shell.env |= {"GUILDLLAMA_METRICS_PORT": str(port), "GUILDLLAMA_TRACES_URL": "http://127.0.0.1:4318"}
            done = await shell("doctor")
            assert f"note metrics: GUILDLLAMA_METRICS_PORT: 127.0.0.1:{port} cannot be listened on now" in done.out
        done = await shell("doctor")
        assert done.code == 0, done.out
        assert f"ok   metrics: http://127.0.0.1:{port}/metrics is free" in done.out
        assert "ok   traces: are sent to http://127.0.0.1:4318/v1/traces" in done.out

    async def test_our_own_engine(self, shell: Shell):
        assert "our own, with GUILDLLAMA_MODEL=smollm2" in (await shell("doctor")).out
        shell.env["GUILDLLAMA_MODEL"] = "/no/such/model"
        done = await shell("doctor")
        assert done.code == 1
        assert "GUILDLLAMA_MODEL=/no/such/model: " in done.out


async def test_help_is_quick_and_complete(shell: Shell):
    process = await shell.start("--help")  # a new process: its imports count
    out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    for command in ("run", "chat", "persona", "db", "cleanup", "doctor"):
        assert f" {command} " in out.decode()
    assert (await shell("db", "--help")).out.count("upgrade") >= 1
    assert "--dry-run" in (await shell("cleanup", "--help")).out
    assert (await shell("nonsense")).code == 2
