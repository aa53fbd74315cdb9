"""`guildllama init`: what is asked, what is refused, the file that comes out of it. Also --version and completion."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import stat
import sys
from importlib import metadata
from pathlib import Path

import pytest
from dotenv import dotenv_values
from typer.testing import CliRunner, Result

from bot.cli import app
from bot.errors import ConfigError
from bot.settings import Settings, load_settings, unknown_variables
from tests.bot.terminal.test_cli import Shell
from tests.fork_server import ROOT, ForkServer, inherited_environment

TOKEN = "MTIz.Gabc_1.x-yz"


@pytest.fixture
def shell(forks: ForkServer, tmp_path: Path) -> Shell:
    return Shell(forks, tmp_path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of `init`, which runs in this process where nothing else is said."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str, answers: str) -> Result:
    return CliRunner().invoke(app, ["init", *arguments], input=answers)


def written(folder: Path, answers: str) -> Settings:
    done = init(answers=answers)
    assert done.exit_code == 0, done
    return load_settings(env_file=folder / ".env")


class TestAnswers:
    def test_defaults(self, folder: Path):
        settings = written(folder, f"{TOKEN}\n\n\n")
        assert settings.discord_token
        assert settings.discord_token.get_secret_value() == TOKEN
        assert (settings.database_url, settings.model) == ("sqlite:///data/guildllama.db", "smollm2")
        assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
        assert [path.name for path in folder.iterdir()] == [".env"]

    def test_an_empty_pipe_takes_every_default(self, folder: Path):
        settings = written(folder, "")
        assert settings.discord_token is None
        assert list(unknown_variables(env_file=folder / ".env")) == []

    def test_a_database_with_signs_and_a_server(self, folder: Path):
        url = "postgresql://me:p#w d&$1@db/x?sslmode=require"
        settings = written(folder, f"\n{url}\nhttp://gpu:8000\n")
        assert settings.database_url == url
        assert settings.engine_url == "http://gpu:8000/v1"

    def test_a_path_is_a_database_file(self, folder: Path):
        assert (written(folder, "\n/srv/bot.db\n\n")).database_url == "sqlite:////srv/bot.db"

    def test_the_secrets_of_the_containers_differ_each_time(self, folder: Path):
        written(folder, "")
        first = dotenv_values(folder / ".env")
        written(folder, "y\n")
        second = dotenv_values(folder / ".env")
        for name in ("POSTGRES_PASSWORD", "ENGINE_API_KEY"):
            assert len(str(first[name])) == 32
            assert first[name] != second[name]

    @pytest.mark.parametrize(
        ("answers", "named"),
        [
            ("token\n", "GUILDLLAMA_DISCORD_TOKEN: a token has three parts"),
            (f"Bot {TOKEN}\n", "GUILDLLAMA_DISCORD_TOKEN: a token has three parts"),
            ("\nmysql://me@host/x\n", "GUILDLLAMA_DATABASE_URL"),
            ("\npostgresql:///x\n", "GUILDLLAMA_DATABASE_URL: names no host"),
            ("\nsqlite:///:memory:\n", "GUILDLLAMA_DATABASE_URL"),
            ("\n\nftp://host\n", "GUILDLLAMA_ENGINE_URL"),
            ("\npostgresql://me:a'b@host/x\n", "GUILDLLAMA_DATABASE_URL: has '"),
            ("\n\n/models/a\\b\n", "GUILDLLAMA_MODEL: has '"),
            ("\npostgresql://me:${HOME}@host/x\n", "GUILDLLAMA_DATABASE_URL: has '"),
        ],
    )
    def test_what_cannot_work_is_refused_and_nothing_written(self, folder: Path, answers: str, named: str):
        done = init(answers=answers)
        assert isinstance(done.exception, ConfigError)
        assert named in done.exception.line
        assert list(folder.iterdir()) == []


class TestAnExistingFile:
    @pytest.mark.parametrize("answer", ["", "\n", "n\n", "what\n"])
    def test_stays_without_a_yes(self, folder: Path, answer: str):
        (folder / ".env").write_text("GUILDLLAMA_MODEL=mine\n")
        done = init(answers=answer)
        assert done.exit_code == 1
        assert "stays as it is" in done.stderr
        assert (folder / ".env").read_text() == "GUILDLLAMA_MODEL=mine\n"
        assert [path.name for path in folder.iterdir()] == [".env"]

    def test_is_kept_beside_the_new_one(self, folder: Path):
        for number in (1, 2):
            (folder / ".env").write_text(f"GUILDLLAMA_MODEL=mine{number}\n")
            assert (written(folder, f"y\n{TOKEN}\n\n\n")).model == "smollm2"
        assert (folder / ".env.old").read_text() == "GUILDLLAMA_MODEL=mine1\n"
        assert (folder / ".env.old2").read_text() == "GUILDLLAMA_MODEL=mine2\n"
        modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert modes == {0o600}

    def test_a_dangling_link_counts_as_one(self, folder: Path):
        (folder / ".env").symlink_to("nowhere")
        assert init(answers="").exit_code == 1
        assert not (folder / "nowhere").exists()

    def test_a_folder_is_refused(self, folder: Path):
        done = init("--file", ".", answers="")
        assert isinstance(done.exception, ConfigError)


def test_a_folder_that_does_not_exist_is_named(folder: Path):
    done = init("--file", "no/such/.env", answers="")
    assert isinstance(done.exception, ConfigError)
    assert done.exception.line == "no/such/.env: cannot be written: No such file or directory. Nothing was changed."


async def test_at_a_terminal_wrong_answers_are_asked_again_and_the_token_is_not_shown(folder: Path):
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(folder)
        environment = {**inherited_environment(), "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-m", "bot", "init"], environment)
    seen = everything = b""

    async def answer(question: bytes, text: bytes) -> None:
        nonlocal seen, everything
        while question not in seen:
            seen += await asyncio.to_thread(os.read, screen, 4096)
        everything += seen.partition(question)[0]
        seen = seen.partition(question)[2]
        await asyncio.sleep(0.2)  # the terminal's echo is switched off after the question
        os.write(screen, text + b"\n")

    async with asyncio.timeout(60):
        await answer(b"Token (not shown): ", b"nonsense")
        await answer(b"Token (not shown): ", TOKEN.encode())
        await answer(b"guildllama.db]: ", b"")
        await answer(b"Model [smollm2]: ", b"")
        with contextlib.suppress(OSError):  # the end of the terminal
            while text := await asyncio.to_thread(os.read, screen, 4096):
                seen += text
        everything += seen
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    os.close(screen)
    assert status == 0, seen
    assert b"only you can read it" in everything
    assert everything.count(b"press Reset Token") == 1, "only the last line is asked again"
    assert max(map(len, everything.decode().splitlines())) < 80
    assert TOKEN.encode() not in everything
    assert dotenv_values(folder / ".env")["GUILDLLAMA_DISCORD_TOKEN"] == TOKEN


async def test_version(shell: Shell):
    done = await shell("--version")
    assert (done.code, done.out) == (0, f"guildllama {metadata.version('guildllama')}\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [("", {"init", "doctor", "db"}), ("db ", {"upgrade", "backup"}), ("persona ", {"set"}), ("doctor --o", {"--only"})],
)
async def test_the_shell_completes_commands_of_every_depth(shell: Shell, words: str, expected: set[str]):
    shell.env |= {"_GUILDLLAMA_COMPLETE": "complete_bash", "COMP_WORDS": f"guildllama {words}"}
    shell.env["COMP_CWORD"] = str(len(f"{words}x".split()))
    done = await shell()
    assert done.code == 0, done
    assert expected <= set(done.out.split())


@pytest.mark.parametrize("command", ["", "run", "chat", "doctor", "db", "models", "cleanup", "init", "persona"])
def test_help_has_examples(command: str):
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    shown = done.output.partition("Examples:")[2].strip().splitlines()
    assert all("  # " in line for line in shown), "each on one line of its own"
    assert f"guildllama {command}".strip() in done.output.partition("Examples:")[2]
