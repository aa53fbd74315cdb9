"""Rows of an old schema, which no table class describes: written and read as SQL."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import text

from models.engines import sync_engine
from models.urls import sync_url

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def stored_time(url: str) -> str:
    """NOW as the database at the URL keeps it."""
    return NOW.replace(tzinfo=None).isoformat(sep=" ") if url.startswith("sqlite") else NOW.isoformat()


def run(url: str, *statements: str) -> None:
    engine = sync_engine(sync_url(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def contents(url: str, table: str) -> list[dict[str, object]]:
    engine = sync_engine(sync_url(url), writer=False)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")).mappings()]
    engine.dispose()
    return found
