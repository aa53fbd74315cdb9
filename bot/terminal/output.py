"""What the database commands share: opening the database by the settings, running async work, printing tables.

Renders every expected error as one line on stderr with exit code 78. Knows no queries.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bot.errors import EXIT_CONFIG, ConfigError
from bot.settings import Settings, load_settings
from bot.terminal.screen import inert
from models.database import Database
from models.errors import (
    DatabaseError,
    DatabaseUnavailable,
    ForeignDatabase,
    NewerDatabase,
    RevisionError,
    UnsupportedEncoding,
    WrongEncryptionKey,
)
from models.migrate import check_revision

T = TypeVar("T")

URL_SETTING = "GUILDLLAMA_DATABASE_URL"


def encryption_keys(settings: Settings) -> tuple[str, ...]:
    """The keys of ENCRYPTION_KEYS, newest first; commas or white space between them."""
    if settings.encryption_keys is None:
        return ()
    return tuple(settings.encryption_keys.get_secret_value().replace(",", " ").split())


def open_checked(settings: Settings) -> Database:
    """The database of the settings, if it is there and at this program's revision; ConfigError otherwise."""
    with config_errors():
        check_revision(settings.database_url)
        return Database(settings.database_url, encryption_keys=encryption_keys(settings))


@contextmanager
def config_errors() -> Iterator[None]:
    """Let what is wrong with the database leave this block as a ConfigError that says what to do."""
    try:
        yield
    except (NewerDatabase, UnsupportedEncoding) as error:
        raise ConfigError(URL_SETTING, str(error), "") from error
    except RevisionError as error:
        raise ConfigError(
            URL_SETTING, str(error).partition(":")[0], f"Run `{error.command}` (or `make migrate`)."
        ) from error
    except ForeignDatabase as error:
        raise ConfigError(URL_SETTING, error.reason, "Nothing was changed.") from error
    except WrongEncryptionKey as error:
        raise ConfigError(
            "GUILDLLAMA_ENCRYPTION_KEYS", str(error), "Keep every key that rows were sealed with."
        ) from error
    except DatabaseUnavailable as error:
        fix = "Check the URL, that the database runs, and that this user may write to it."
        raise ConfigError(URL_SETTING, f"the database cannot be used: {error.reason}", fix) from error
    except DatabaseError as error:
        raise ConfigError(URL_SETTING, str(error), "Nothing was changed.") from error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """The edge of a command: a ConfigError becomes one line on stderr and exit code 78."""
    try:
        with config_errors():
            yield
    except ConfigError as error:
        sys.stderr.write(f"guildllama: {error.line}\n")
        raise typer.Exit(EXIT_CONFIG) from None


def with_database(work: Callable[[Database], Awaitable[T]]) -> T:
    """Runs one command's work on the checked database of the settings."""

    async def run(settings: Settings) -> T:
        database = open_checked(settings)
        try:
            return await work(database)
        finally:
            await database.close()

    with one_line_errors():
        return asyncio.run(run(load_settings()))


def as_json(value: object) -> str:
    """Data for other programs; times in ISO 8601, UTC."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=2) + "\n"


def print_json(value: object) -> None:
    sys.stdout.write(as_json(value))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def _shown(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d %H:%M:%S}"
    return inert(str(cell))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
