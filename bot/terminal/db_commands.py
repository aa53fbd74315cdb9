"""`guildllama db ...` and `guildllama cleanup`: inspecting, checking and cleaning the database.

Each command reads the settings, does one thing and prints the result as a table, or as JSON for other programs. The
commands on whole databases are in bot/terminal/db_backup.py.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from bot.guilds.export import as_json as to_json
from bot.guilds.export import dialog_data, dialog_markdown, open_state, owner_of
from bot.guilds.retention import limits_of, utc_now
from bot.settings import load_settings
from bot.terminal import help_texts
from bot.terminal.applications import OnlyApplication, for_each
from bot.terminal.db_backup import add_commands
from bot.terminal.db_prompt import show_prompt
from bot.terminal.output import one_line_errors, print_json, print_table, with_database
from bot.terminal.screen import inert
from models.database import Database
from models.maintenance import cleanup
from models.maintenance.upgrade_backup import backup_before_upgrade, default_folder, old_revision
from models.migrate import check_revision, head_revision, upgrade
from models.private_files import write_text
from models.queries import inspection
from models.queries.inspection import DialogLine, TurnLine
from models.types import LARGEST_ID, PromptRecord
from models.urls import masked_url

db_app = typer.Typer(help="Look into the database, check it, move it.", epilog=help_texts.DB, no_args_is_help=True)
add_commands(db_app)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Format(enum.StrEnum):
    """The formats of `guildllama db export`."""

    md = "md"
    json = "json"


@db_app.command("upgrade")
def upgrade_command(
    backup: Annotated[
        bool, typer.Option("--backup/--no-backup", help="Whether to back up first what an upgrade would change.")
    ] = True,
    folder: Annotated[
        Path | None,
        typer.Option("--backup-dir", help="Where to; by default `backups` beside the SQLite file, or here."),
    ] = None,
) -> None:
    """Back up the database and bring it to the current schema. Safe to run twice, and in two places at once."""
    with one_line_errors():
        url = load_settings().database_url
        revision = old_revision(url) if backup else None
        if revision is not None:
            file = backup_before_upgrade(url, folder or default_folder(url), revision)
            sys.stdout.write(f"Backed up revision {revision} into {file}; `guildllama db restore {file}` reads it.\n")
        upgrade(url)
        sys.stdout.write(f"{masked_url(url)} is at revision {head_revision()}.\n")


@db_app.command("stats")
def stats_command(as_json: AsJson = False) -> None:
    """How much is stored."""

    async def read(database: Database) -> dict[str, int]:
        async with database.read() as session:
            return await inspection.totals(session)

    totals = with_database(read)
    if as_json:
        print_json(totals)
    else:
        print_table("Database", ("what", "count"), ((name.replace("_", " "), f"{n:,}") for name, n in totals.items()))


@db_app.command("guilds")
def guilds_command(application: OnlyApplication = None, as_json: AsJson = False) -> None:
    """The guilds of each application, with their members, dialogs and turns."""

    async def read(database: Database) -> tuple[inspection.GuildLine, ...]:
        async with database.read() as session:
            return await inspection.guild_lines(session)

    found = with_database(lambda database: for_each(database, application, read))
    lines = [line for each in found for line in each]
    if as_json:
        print_json(lines)
        return
    rows = (
        (
            line.application_id or "terminal",
            line.guild_id or "direct messages",
            line.members,
            line.dialogs,
            line.turns,
            line.last_active_at,
            line.model,
            line.removed_at,
        )
        for line in lines
    )
    columns = ("application", "guild", "members", "dialogs", "turns", "last active", "model", "removed")
    print_table("Guilds", columns, rows)


@db_app.command("dialogs")
def dialogs_command(
    guild: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_ID, help="Only this guild; 0 is direct messages.")
    ] = None,
    user: Annotated[int | None, typer.Option(min=0, max=LARGEST_ID, help="Only this user.")] = None,
    application: OnlyApplication = None,
    limit: Annotated[int, typer.Option(min=1, max=LARGEST_ID, help="The maximum number, the last active first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The dialogs, the last active first."""

    async def read(database: Database) -> tuple[DialogLine, ...]:
        async with database.read() as session:
            return await inspection.dialog_lines(session, guild_id=guild, user_id=user, limit=limit)

    found = with_database(lambda database: for_each(database, application, read))
    lines = [line for each in found for line in each]
    lines = sorted(lines, key=lambda line: (line.last_active_at, line.dialog_id), reverse=True)[:limit]
    if as_json:
        print_json(lines)
        return
    rows = (
        (
            line.dialog_id,
            line.application_id or "terminal",
            line.guild_id,
            "shared" if line.shared else line.user_id,
            line.channel_id,
            line.name,
            line.turns,
            line.last_active_at,
            _state(line),
        )
        for line in lines
    )
    print_table(
        "Dialogs", ("dialog", "application", "guild", "user", "channel", "name", "turns", "last active", "state"), rows
    )


@db_app.command("show")
def show_command(
    dialog: Annotated[int, typer.Argument(max=LARGEST_ID, help="Dialog id.")], as_json: AsJson = False
) -> None:
    """One dialog with every turn."""
    line, turns = _dialog(dialog)
    if as_json:
        print_json(dialog_data(line, turns))
        return
    rows = (
        (
            turn.turn_id,
            turn.created_at,
            turn.status,
            turn.author_id,
            turn.user,
            turn.reply,
            turn.prompt_tokens,
            turn.completion_tokens,
            "; ".join(filter(None, (prompt_line(turn.prompt), turn.model and f"by {turn.model}"))),
        )
        for turn in turns
    )
    name = "" if line.name is None else f" “{line.name}”"
    bot = f" of application {line.application_id}" if line.application_id else ""
    title = f"Dialog {line.dialog_id}{name}: {_owner(line)} in guild {line.guild_id}{bot}, {_state(line)}"
    print_table(
        title, ("turn", "created", "status", "author", "user", "reply", "prompt", "completion", "made of"), rows
    )


@db_app.command("prompt")
def prompt_command(
    turn: Annotated[int, typer.Argument(max=LARGEST_ID, help="Turn id, as `db show` lists them.")],
    as_json: AsJson = False,
) -> None:
    """The prompt of a turn's reply as it was sent, built again, and whether it is exactly that one."""
    show_prompt(turn, as_json=as_json)


@db_app.command("export")
def export_command(
    dialog: Annotated[int, typer.Argument(max=LARGEST_ID, help="Dialog id.")],
    format_: Annotated[Format, typer.Option("--format", help="Markdown to read or JSON to process.")] = Format.md,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of the terminal.")] = None,
    as_json: AsJson = False,
) -> None:
    """One dialog as a file to keep."""
    line, turns = _dialog(dialog)
    data = to_json(dialog_data(line, turns)) if as_json or format_ is Format.json else dialog_markdown(line, turns)
    if output is None:
        sys.stdout.write(inert(data) if sys.stdout.isatty() else data)
    else:
        write_text(output, data)


@db_app.command("check")
def check_command(as_json: AsJson = False) -> None:
    """Check integrity, revision, orphans and stuck turns. Exit code 1 if something is wrong."""

    async def stuck(database: Database) -> tuple[int, ...]:
        async with database.read() as session:
            return await inspection.stuck_turns(session, now=utc_now())

    async def read(database: Database) -> dict[str, object]:
        async with database.read() as session:
            integrity = list(await inspection.integrity_problems(session))
            orphans = await inspection.orphans(session)
        turns = [turn_id for each in await for_each(database, None, stuck) for turn_id in each]
        return {"integrity": integrity, "orphans": orphans, "stuck_turns": sorted(turns)}

    found = with_database(read)
    with one_line_errors():
        check_revision(load_settings().database_url)
    healthy = not any(found.values())
    if as_json:
        print_json({"ok": healthy, "revision": head_revision(), **found})
    else:
        rows = [("revision", f"{head_revision()}, current")]
        rows += [(name.replace("_", " "), "none" if not problem else str(problem)) for name, problem in found.items()]
        rows[1] = ("integrity", "ok" if not found["integrity"] else str(found["integrity"]))
        print_table("Sound" if healthy else "Not sound", ("check", "result"), rows)
    if not healthy:
        raise typer.Exit(1)


def cleanup_command(
    application: OnlyApplication = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """End idle dialogs, purge what is past its retention, and mark the turns of a crashed process as interrupted.

    Of every application that has rows, also of one whose bot does not run any more.
    """
    with one_line_errors():
        limits = limits_of(load_settings())

    async def work(database: Database) -> cleanup.CleanupReport:
        act = cleanup.preview if dry_run else cleanup.clean
        return await act(database, limits=limits, now=utc_now())

    report = cleanup.summed(with_database(lambda database: for_each(database, application, work)))
    if as_json:
        print_json({"dry_run": dry_run, **dict(report.rows())})
    else:
        title = "Cleanup would do this" if dry_run else "Cleanup done"
        print_table(title, ("what", "count"), ((name.replace("_", " "), value) for name, value in report.rows()))


def _dialog(dialog_id: int) -> tuple[DialogLine, tuple[TurnLine, ...]]:
    async def read(database: Database) -> tuple[DialogLine, tuple[TurnLine, ...]] | None:
        async with database.read() as session:
            line = await inspection.dialog_line(session, dialog_id=dialog_id)
            return None if line is None else (line, await inspection.turn_lines(session, dialog_id=dialog_id))

    found = next(filter(None, with_database(lambda database: for_each(database, None, read))), None)
    if found is None:
        sys.stderr.write(f"guildllama: there is no dialog {dialog_id}; `guildllama db dialogs` lists them\n")
        raise typer.Exit(1)
    return found


def prompt_line(record: PromptRecord | None) -> str:
    """What the prompt of a turn was made of, in a few words; `--json` has it with all ids."""
    if record is None:
        return ""
    persona = "default" if record.persona_id is None else f"persona {record.persona_id} v{record.persona_version}"
    parts = [persona, f"{record.num_pairs} pairs"]
    if record.first_turn_id is not None:
        parts[-1] += f" from turn {record.first_turn_id}"
    if record.summary_id is not None:
        parts.append(f"summary {record.summary_id}")
    if record.fact_ids:
        parts.append(f"facts {', '.join(map(str, record.fact_ids))}")
    return "; ".join(parts)


def _state(line: DialogLine) -> str:
    return f"ended ({line.end_reason})" if line.ended_at else open_state(line)


def _owner(line: DialogLine) -> str:
    owner = owner_of(line)
    return owner[0].lower() + owner[1:]
