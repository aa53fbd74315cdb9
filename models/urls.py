"""Parses the database URL of the settings and adds the driver to it. Opens no connection.

Every function raises DatabaseUnavailable for a URL that cannot be parsed or is not supported.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from models.errors import DatabaseUnavailable

_SYNC = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_ASYNC = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
_PREPARE = "prepare_threshold"
# What hosts of poolers tell people to write for other clients (Prisma, asyncpg). libpq refuses options that it does not
# know.
_OTHER_CLIENTS = (
    "pgbouncer",
    "connection_limit",
    "pool_timeout",
    "statement_cache_size",
    "prepared_statement_cache_size",
)


def async_url(text: str) -> URL:
    """Return the URL for the async engine: aiosqlite or psycopg, whatever driver the URL names."""
    url = _parse(text)
    return url.set(drivername=_ASYNC[url.get_backend_name()])


def sync_url(text: str) -> URL:
    """Return the URL for blocking engines: migrations, backup, copy."""
    url = _parse(text)
    return url.set(drivername=_SYNC[url.get_backend_name()])


def sqlite_path(text: str) -> Path | None:
    """Return the file of a SQLite URL, or None for Postgres."""
    url = _parse(text)
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def prepare_threshold(text: str) -> int | None:
    """Return how often a statement must run before psycopg prepares it, if the URL of a Postgres database says so.

    None, the default, is never: see models/engines.py. `pgbouncer=true` overrules it.
    """
    query = make_url(text).query
    value, pooled = query.get(_PREPARE), query.get("pgbouncer")
    if value is None or value in {"none", "off"} or (isinstance(pooled, str) and pooled.lower() in {"true", "1"}):
        return None
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10):
        raise DatabaseUnavailable(f"{_PREPARE} in the database URL must be a number, such as 5, or off")
    return int(value)


def masked_url(text: str) -> str:
    """Return the URL with its password masked, for messages."""
    return _parse(text).render_as_string(hide_password=True)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise DatabaseUnavailable("the database URL cannot be read; it looks like sqlite:///path/to/file.db") from None
    if url.drivername == "postgres":
        url = url.set(drivername="postgresql")
    backend = url.get_backend_name()
    if backend not in _ASYNC:
        raise DatabaseUnavailable(f"the database is {backend!r}; only sqlite and postgresql are supported")
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise DatabaseUnavailable("the dialog log needs a file: an in-memory SQLite database forgets everything")
        if url.database.startswith("file:"):
            raise DatabaseUnavailable("write the SQLite database as a plain path: sqlite:///path/to/file.db")
        return url
    return url.difference_update_query([*_OTHER_CLIENTS, _PREPARE])
