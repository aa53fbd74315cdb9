"""Fixtures that give a test its database. Which one to ask for:

    database             an open `Database`, migrated and empty; the test runs twice, on SQLite and on Postgres
    database_url         the URL of such a database, not opened; runs twice too
    sqlite_url           the same on SQLite only
    postgres_url         the same on Postgres only
    empty_url            a database without any table, for migrations; runs twice
    empty_postgres_url   the same on Postgres only
    own_postgres         a Postgres server for this test alone, which it may stop and start
    forks                runs `guildllama` in a process of its own, without its seconds of imports
    postgres             the server that all other Postgres tests share; ask for it to create databases by hand

Each test gets a database of its own, copied from a migrated template. The shared server starts once per run, for all
xdist workers (tests/postgres.py). Imports of `models` are inside the fixtures, so that tests of the engine run where no
database driver is installed.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from models.database import Database
    from tests.fork_server import ForkServer
    from tests.postgres import Postgres


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Settings that must be made before any test module is imported."""
    # pytest-alembic's collector does not support pytest 9; tests/migrations/test_history.py calls its tests instead.
    config.option.pytest_alembic_tests_path = "tests/migrations"
    # Triton reads this variable when a kernel is defined, that is at the import of its module.
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # Hypothesis would report examples that are slow only because the machine is busy.
    settings.register_profile("no_deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("no_deadline")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """What a test has configured of the log is undone: its handler writes to a stream that is closed afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if any(handler not in handlers for handler in root.handlers):
        import structlog

        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def forks() -> ForkServer:
    """The fork server of this xdist worker: runs `guildllama` without its imports."""
    from tests.fork_server import fork_server

    return fork_server()


@pytest.fixture(scope="session")
def postgres(testrun_uid: str) -> Iterator[Postgres]:
    """The Postgres server that all tests of this run share, across xdist workers; the last worker removes it.

    Its folder is not in pytest's temporary folder, which only its owner may enter: Postgres does not run as root.
    """
    from tests.postgres import Postgres

    server = Postgres(Path(tempfile.gettempdir()) / f"guildllama-pg-{testrun_uid}")
    server.ensure_template()
    yield server
    server.close()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A Postgres server for one test alone, which it may stop and start. It has no template yet."""
    from tests.postgres import Postgres

    server = Postgres(Path(tempfile.gettempdir()) / f"guildllama-pg-own-{uuid.uuid4().hex}")
    yield server
    server.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file for tests to copy; made once per worker."""
    from models.migrate import upgrade

    path = tmp_path_factory.mktemp("template") / "guildllama.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """URL of a migrated, empty SQLite database."""
    path = tmp_path / "guildllama.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """URL of a migrated, empty Postgres database."""
    name = postgres.create_migrated()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def empty_postgres_url(postgres: Postgres) -> Iterator[str]:
    """URL of a Postgres database without any table."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated, empty database; the test runs on SQLite and on Postgres."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without any table; the test runs on SQLite and on Postgres."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open, migrated, empty database; the test runs on SQLite and on Postgres."""
    from models.database import Database

    opened = Database(database_url)
    yield opened
    await opened.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let files of the engine, which compute, alternate with the others, which mostly wait, so that cores stay busy.

    The Makefile has xdist keep this order.
    """
    engine = Path(__file__).parent / "engine"
    files = list(dict.fromkeys(item.path for item in items))
    computing = [file for file in files if file.is_relative_to(engine)]
    waiting = [file for file in files if not file.is_relative_to(engine)]
    place = {file: (number + 0.5) / len(group) for group in (computing, waiting) for number, file in enumerate(group)}
    items.sort(key=lambda item: place[item.path])
