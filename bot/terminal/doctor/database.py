"""The database: whether it can be reached, its encoding, revision, keys, and room for the bot's connections."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from bot.errors import EXIT_CONFIG
from bot.settings import Settings
from bot.storage import encryption_keys
from bot.terminal.doctor.findings import Finding, bad, note, ok
from models import errors as stored
from models.engines import POSTGRES_POOL
from models.maintenance.server_facts import PostgresServer, postgres_server, sqlite_version, wrong_keys
from models.migrate import check_revision, head_revision
from models.urls import masked_url, sqlite_path

OLDEST_SQLITE = (3, 35)  # has RETURNING
OLDEST_SUPPORTED_POSTGRES = 15  # by its own project
MOST_SECONDS_APART = 10.0
_URL = "GUILDLLAMA_DATABASE_URL"


def findings(settings: Settings) -> Iterator[Finding]:
    """Of the database at DATABASE_URL. One that cannot be reached is asked nothing more."""
    url = settings.database_url
    try:
        where = masked_url(url)
        sqlite = sqlite_path(url) is not None
        state = _revision(url, where)
        yield state
        if sqlite:
            yield from _sqlite_library()
            if settings.shard_count is not None and settings.shard_count > 1:
                yield bad(
                    "database", "GUILDLLAMA_SHARD_COUNT: several processes need Postgres", f"{_URL}=postgresql://…"
                )
        server = postgres_server(url)
        if server is not None:
            yield from _server(server, settings)
        if state.status == "ok":
            yield from _keys(settings)
    except stored.DatabaseUnavailable as error:
        yield bad("database", f"{_URL}: {error}", "check the URL, that the database runs, and this user's rights in it")
    except stored.UnsupportedEncoding as error:
        fix = "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0; then `guildllama db copy` if it holds rows"
        yield bad("database", f"{_URL}: the database's encoding is {error.encoding}, not UTF8", fix, EXIT_CONFIG)
    except stored.ForeignDatabase as error:
        yield bad("database", f"{_URL}: {error}", f"{_URL}=… of an empty database", EXIT_CONFIG)
    except stored.DatabaseError as error:
        yield bad("database", f"{_URL}: {error}", "guildllama db check", EXIT_CONFIG)


def _revision(url: str, where: str) -> Finding:
    try:
        check_revision(url)
    except stored.NewerDatabase as error:
        return bad("database", str(error), error.remedy, EXIT_CONFIG)
    except stored.RevisionError as error:
        if error.found is None:
            return note("database", f"{where} is empty; the first start creates the tables")
        return bad("database", str(error), error.command, EXIT_CONFIG)
    return ok("database", f"{where} at revision {head_revision()}")


def _sqlite_library() -> Iterator[Finding]:
    version = sqlite_version()
    text = ".".join(map(str, version))
    if version < OLDEST_SQLITE:
        yield bad("database", f"Python's SQLite is {text}; 3.35 or later works", "install another build of Python")


def _server(server: PostgresServer, settings: Settings) -> Iterator[Finding]:
    major, minor = server.version
    if major < OLDEST_SUPPORTED_POSTGRES:
        yield note("database", f"Postgres {major}.{minor} gets no more fixes from its project", "pg_upgrade")
    else:
        yield ok("database", f"Postgres {major}.{minor}")
    if server.read_only:
        yield bad("database", "it takes no writes: a standby, or read-only by its settings", f"{_URL}=… of the primary")
    elif not server.may_create:
        yield bad(
            "database",
            "this user may not create tables, which a first start and an upgrade do",
            "GRANT CREATE ON SCHEMA public TO the_user",
        )
    processes = settings.shard_count or 1
    wanted = POSTGRES_POOL * processes
    if wanted > server.max_connections:
        yield bad(
            "pool",
            f"{processes} processes open up to {wanted} connections; the server allows {server.max_connections}",
            f"ALTER SYSTEM SET max_connections = {wanted + 20}, and restart Postgres",
        )
    elif server.connections + POSTGRES_POOL > server.max_connections:
        yield note(
            "pool",
            f"{server.connections} of {server.max_connections} connections are in use, and a bot opens {POSTGRES_POOL}",
            "SELECT application_name, count(*) FROM pg_stat_activity GROUP BY 1",
        )
    else:
        yield ok("pool", f"{server.connections} of {server.max_connections} connections in use")
    apart = abs((datetime.now(UTC) - server.now).total_seconds())
    if apart > MOST_SECONDS_APART:
        yield bad(
            "clock", f"this clock and the database's are {apart:.0f} s apart", "timedatectl set-ntp true, on both hosts"
        )


def _keys(settings: Settings) -> Iterator[Finding]:
    problem = wrong_keys(settings.database_url, encryption_keys(settings))
    if problem is not None:
        fix = "set GUILDLLAMA_ENCRYPTION_KEYS to the keys that the texts were written with, the newest first"
        yield bad("keys", f"GUILDLLAMA_ENCRYPTION_KEYS: {problem}", fix, EXIT_CONFIG)
