"""What the database commands share: running work on the checked database, and printing tables and JSON.

Prints every expected error as one line on stderr and exits with code 78. Knows no queries.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bot.errors import EXIT_CONFIG, ConfigError
from bot.guilds.export import as_json
from bot.settings import Settings, load_settings
from bot.storage import config_errors, open_checked
from bot.terminal.screen import inert
from models.database import Database

T = TypeVar("T")
_PIPE_WIDTH = 160


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a ConfigError or database error that leaves this block as one line on stderr, and exit with code 78."""
    try:
        with config_errors():
            yield
    except ConfigError as error:
        sys.stderr.write(f"guildllama: {error.line}\n")
        raise typer.Exit(EXIT_CONFIG) from None


def with_database(work: Callable[[Database], Awaitable[T]]) -> T:
    """Run one command's work on the database of the settings. Its errors are printed as by `one_line_errors`."""

    async def run(settings: Settings) -> T:
        database = open_checked(settings)
        try:
            return await work(database)
        finally:
            await database.close()

    with one_line_errors():
        return asyncio.run(run(load_settings()))


def print_json(value: object) -> None:
    """Print data for other programs."""
    sys.stdout.write(as_json(value))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table for people: as wide as the terminal, or _PIPE_WIDTH columns into a pipe."""
    table = Table(title=Text(inert(title)), title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False).print(table)


def print_list(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[str],
    optional: Sequence[str],
) -> tuple[str, ...]:
    """Print a table of short cells without lines between columns, one line a row, and return what was left out of it.

    `right`: columns of numbers. `optional`: columns that a narrow terminal does without, the first one first.
    """
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    every = [dict(zip(columns, row, strict=True)) for row in rows]
    for count in range(len(optional) + 1):
        table = Table(
            title=Text(inert(title)),
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        shown = [name for name in columns if name not in optional[:count]]
        for name in shown:
            table.add_column(name, justify="right" if name in right else "left", overflow="fold")
        for row in every:
            table.add_row(*(Text(_shown(row[name])) for name in shown))
        if Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width:
            break
    console.print(table)
    return tuple(optional[:count])


def _shown(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d %H:%M:%S}"
    return inert(str(cell))
