"""The bot and its surroundings, started once for the tests of a module. Tests that break things start their own."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.discord.harness import World, world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_world(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(sqlite_template, folder / "guildllama.db")
    async with world(f"sqlite:///{folder / 'guildllama.db'}", folder) as here:
        yield here


@pytest_asyncio.fixture(loop_scope="module")
async def here(shared_world: World) -> AsyncIterator[World]:
    """The shared world, without the faults and replies that the previous test planned. Each test makes a guild."""
    shared_world.discord.rest.faults.clear()
    shared_world.engine._scripts.clear()
    yield shared_world
    assert shared_world.bot.running, shared_world.bot.log()[-3000:]
    assert "\n".join(shared_world.discord.violations) == ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of `both` in a module run on the database that it names as DATABASE; on the other, as long tests.

    CONSTANTS of such a module are those of its bots.
    """
    if "world_of_both" in metafunc.fixturenames:
        short = getattr(metafunc.module, "DATABASE", "sqlite")
        other = "postgres" if short == "sqlite" else "sqlite"
        cases = [short, pytest.param(other, marks=pytest.mark.long)]
        metafunc.parametrize("world_of_both", cases, indirect=True, scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world_of_both(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("world")
    if request.param == "sqlite":
        shutil.copy(sqlite_template, folder / "guildllama.db")
        url = f"sqlite:///{folder / 'guildllama.db'}"
    else:
        server = request.getfixturevalue("postgres")
        url = server.url(server.create_migrated())
    async with world(url, folder, constants=getattr(request.module, "CONSTANTS", None)) as there:
        yield there


@pytest_asyncio.fixture(loop_scope="module")
async def both(world_of_both: World) -> AsyncIterator[World]:
    """As `here`, but on SQLite and on Postgres; one of the two in a long test."""
    world_of_both.discord.rest.faults.clear()
    world_of_both.engine._scripts.clear()
    yield world_of_both
    assert world_of_both.bot.running, world_of_both.bot.log()[-3000:]
    assert "\n".join(world_of_both.discord.violations) == ""
