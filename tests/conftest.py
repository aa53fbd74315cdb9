"""Databases for tests: every test that asks for `database` or `database_url` runs on SQLite and on Postgres.

Postgres is started once for all xdist workers; each test gets a database of its own, copied from a migrated template.
Tests that stop and start the server use `own_postgres`, so nobody else notices. Imports are late, so that tests of the
engine run where no database is installed.
"""

from __future__ import annotations

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
    from tests.postgres import Postgres


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # pytest-alembic's own collector does not know pytest 9; its tests are called from tests/migrations instead.
    config.option.pytest_alembic_tests_path = "tests/migrations"
    # Triton decides when a kernel is defined whether it is interpreted, so this comes before any import of one.
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # A busy machine is no finding.
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")


@pytest.fixture(scope="session")
def postgres(testrun_uid: str) -> Iterator[Postgres]:
    """The server that all tests of this run share, in whatever xdist worker; the last one out removes it.

    Not in pytest's own folder: that is closed to all but its user, and Postgres does not run as root.
    """
    from tests.postgres import Postgres

    server = Postgres(Path(tempfile.gettempdir()) / f"guildllama-pg-{testrun_uid}")
    server.ensure_template()
    yield server
    server.close()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server for one test alone, to stop and start at will."""
    from tests.postgres import Postgres

    server = Postgres(Path(tempfile.gettempdir()) / f"guildllama-pg-own-{uuid.uuid4().hex}")
    yield server
    server.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models.migrate import upgrade

    path = tmp_path_factory.mktemp("template") / "guildllama.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated, empty SQLite database."""
    path = tmp_path / "guildllama.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A migrated, empty Postgres database."""
    name = postgres.create_migrated()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def empty_postgres_url(postgres: Postgres) -> Iterator[str]:
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database: the test runs once on each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has migrated yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    from models.database import Database

    opened = Database(database_url)
    yield opened
    await opened.close()
