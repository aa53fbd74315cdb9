"""The commands on whole databases: backup, restore, copy, re-encryption, and a change of the Discord application."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bot.errors import ConfigError
from bot.settings import load_settings
from bot.terminal.applications import OnlyApplication, only_one
from bot.terminal.output import one_line_errors, print_json, print_table, with_database
from models.application import TERMINAL
from models.database import Database
from models.maintenance import backup, transfer
from models.maintenance.rekey import rekey
from models.maintenance.transfer import TableCopy
from models.queries.application import give_up_application, started_applications
from models.urls import masked_url

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite what the target holds.")]


def add_commands(app: typer.Typer) -> None:
    """Add these commands to `guildllama db`."""
    app.command("backup")(backup_command)
    app.command("restore")(restore_command)
    app.command("copy")(copy_command)
    app.command("rekey")(rekey_command)
    app.command("adopt")(adopt_command)


def backup_command(file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")]) -> None:
    """Write everything to one SQLite file, consistent while the bot runs."""
    with one_line_errors():
        size = backup.backup(load_settings().database_url, file)
        sys.stdout.write(f"{file}: {size:,} bytes, checked.\n")


def restore_command(
    file: Annotated[Path, typer.Argument(help="A file written by `guildllama db backup`.")],
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into the configured database. Stop the bot first."""
    with one_line_errors():
        url = load_settings().database_url
        _print_copy(f"Restored into {masked_url(url)}", backup.restore(file, url, replace=replace), as_json)


def copy_command(
    source: Annotated[str, typer.Argument(help="URL to copy from, such as sqlite:///data/guildllama.db.")],
    target: Annotated[str, typer.Argument(help="URL of an empty database, such as postgresql://user@host/name.")],
    as_json: AsJson = False,
) -> None:
    """Copy every row into an empty database, then compare counts and checksums."""
    with one_line_errors():
        _print_copy(f"Copied into {masked_url(target)}", transfer.copy_database(source, target), as_json)


def adopt_command(application: OnlyApplication = None) -> None:
    """Give what is stored for one Discord application to another: the next one that is new here. Stop its bot first."""
    owner = with_database(lambda database: _give_up(database, application))
    if owner is None:
        sys.stdout.write("The database belongs to no application yet. The next bot that starts makes it its own.\n")
    else:
        sys.stdout.write(
            f"The rows belonged to application {owner}. The next bot that is new here makes them its own.\n"
            "Members can no longer use the buttons under the old bot's messages.\n"
        )


async def _give_up(database: Database, application: int | None) -> int | None:
    async with database.read() as session:
        started = await started_applications(session)
    if not started:
        return None
    chosen = only_one(started, application)
    if chosen == TERMINAL:
        raise ConfigError(
            "--application", "0 is the terminal, whose rows no bot takes over", "Name a bot's application."
        )
    now = datetime.now(UTC)
    if not await database.run(lambda session: give_up_application(session, application_id=chosen, now=now)):
        raise ConfigError(
            "--application", "another application's rows wait for a new one", "Start the new bot before the next one."
        )
    return chosen


def rekey_command(
    plain: Annotated[bool, typer.Option("--plain", help="Store the text unencrypted instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Encrypt all stored text with the first key of GUILDLLAMA_ENCRYPTION_KEYS; keep the old keys until it is done."""

    async def work(database: Database) -> dict[str, int]:
        return await rekey(database, plain=plain)

    changed = with_database(work)
    if as_json:
        print_json(changed)
    else:
        print_table("Resealed", ("table", "rows"), changed.items())


def _print_copy(title: str, tables: tuple[TableCopy, ...], as_json: bool) -> None:
    if as_json:
        print_json(list(tables))
    else:
        print_table(title, ("table", "rows", "sha256"), ((t.name, t.rows, t.checksum[:16]) for t in tables))
