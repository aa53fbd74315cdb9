"""What an operator may want to know of the database server: its version, who is connected, its clock, its writability.

Reads only, over a connection of its own, and is no part of the bot: `guildllama doctor` asks. Knows the tables of
processes and of texts, of all applications.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from models.base import UTCDateTime
from models.driver_errors import to_unavailable
from models.encryption import TextCodec
from models.engines import sync_engine
from models.errors import DatabaseUnavailable, WrongEncryptionKey
from models.process_owner import owner_is_alive
from models.tables import PersonaVersion, Process, Turn
from models.urls import sqlite_path, sync_url

_SEALED_TEXTS = ((Turn.user_text, Turn.id), (PersonaVersion.prompt, PersonaVersion.persona_id))


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """`connections`: open ones, of `max_connections`. `read_only`: a standby, or set so. `may_create`: tables."""

    version: tuple[int, int]
    max_connections: int
    connections: int
    read_only: bool
    may_create: bool
    now: datetime


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A row of a bot. `alive_here`: what this host says of it, None for another one. `renewed`: by its heartbeat."""

    owner: str
    application_id: int
    alive_here: bool | None
    renewed: bool


def postgres_server(url: str) -> PostgresServer | None:
    """Of a Postgres database; None for SQLite. Raises DatabaseUnavailable."""
    if sqlite_path(url) is not None:
        return None
    with _connection(url) as connection:

        def ask(statement: str) -> str:
            return str(connection.exec_driver_sql(statement).scalar_one())

        number = int(ask("SHOW server_version_num"))
        # Reserved for superusers: nobody else gets these.
        limit = int(ask("SHOW max_connections")) - int(ask("SHOW superuser_reserved_connections"))
        standby = ask("SELECT pg_is_in_recovery()") == "True"
        now: datetime = connection.execute(select(func.now())).scalar_one()
        return PostgresServer(
            version=(number // 10_000, number % 10_000),
            max_connections=limit,
            connections=int(ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")),
            read_only=standby or ask("SHOW default_transaction_read_only") == "on",
            may_create=ask("SELECT has_schema_privilege(current_schema(), 'CREATE')") == "True",
            now=now.astimezone(UTC),
        )


def sqlite_version() -> tuple[int, int, int]:
    """Of the library that Python has."""
    return sqlite3.sqlite_version_info


def wrong_keys(url: str, keys: Sequence[str]) -> str | None:
    """Why stored texts cannot be read with these keys; None if the oldest and the newest ones of each kind can.

    Raises DatabaseUnavailable.
    """
    try:
        codec = TextCodec(keys)
    except WrongEncryptionKey as error:
        return str(error)
    with _connection(url) as connection:
        for text, key in _SEALED_TEXTS:
            for order in (key.asc(), key.desc()):
                stored = connection.execute(select(text).order_by(order).limit(1)).scalar_one_or_none()
                try:
                    codec.open(stored or "")
                except WrongEncryptionKey as error:
                    return str(error)
    return None


def running_processes(url: str) -> tuple[RunningProcess, ...]:
    """The bots that say they run with this database, on any host. Raises DatabaseUnavailable."""
    with _connection(url) as connection:
        sqlite = connection.dialect.name == "sqlite"
        clock = func.strftime("%Y-%m-%d %H:%M:%f", "now", type_=UTCDateTime) if sqlite else func.now(type_=UTCDateTime)
        now = connection.execute(select(clock)).scalar_one()
        rows = connection.execute(
            select(Process.owner, Process.application_id, Process.alive_until, Process.lost_at).order_by(Process.owner)
        )
        return tuple(
            RunningProcess(owner, application, owner_is_alive(owner), until > now and lost_at is None)
            for owner, application, until, lost_at in rows
        )


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
    path = sqlite_path(url)
    if path is not None and not path.is_file():
        raise DatabaseUnavailable(f"there is no {path}")  # SQLite would create it
    engine = sync_engine(sync_url(url), writer=False)
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise to_unavailable(error) from error
    finally:
        engine.dispose()
