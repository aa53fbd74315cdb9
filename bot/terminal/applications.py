"""Whose rows a command of the operator works on: those of one Discord application, or of each in turn.

One database may serve several bots. A query serves one application, so a command that shows all asks for each. Knows
which applications there are; not what a command does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

import typer

from bot.errors import ConfigError
from models.application import TERMINAL
from models.database import Database
from models.queries.application import applications, started_applications
from models.types import LARGEST_ID

T = TypeVar("T")
OnlyApplication = Annotated[
    int | None,
    typer.Option("--application", min=0, max=LARGEST_ID, help="Only this Discord application; 0 is the terminal."),
]
"""The option of commands that show or change rows of tenants."""


def only_one(started: Sequence[int], wanted: int | None) -> int:
    """Return the application that is meant: the wanted one, or the only one that was started here.

    Until a bot was started, it is the terminal, whose rows the first bot takes over. Raises ConfigError.
    """
    if wanted is not None:
        if wanted not in (*started, TERMINAL):
            raise ConfigError("--application", f"{wanted} was never started with this database", _known(started))
        return wanted
    if len(started) > 1:
        raise ConfigError("--application", "is needed: several bots use this database", _known(started))
    return started[0] if started else TERMINAL


async def act_for_one(database: Database, wanted: int | None) -> None:
    """Let all later transactions be those of the application that is meant (see `only_one`)."""
    async with database.read() as session:
        started = await started_applications(session)
    database.application_id = only_one(started, wanted)


async def for_each(database: Database, wanted: int | None, work: Callable[[Database], Awaitable[T]]) -> list[T]:
    """Run the work for the wanted application, or for every one that has rows here; return the results by id."""
    async with database.read() as session:
        found = await applications(session)
    results = []
    for application_id in found if wanted is None else (wanted,):
        database.application_id = application_id
        results.append(await work(database))
    return results


def _known(started: Sequence[int]) -> str:
    listed = ", ".join(map(str, started)) or "none yet"
    return f"Started with it: {listed}; {TERMINAL} is the terminal."
