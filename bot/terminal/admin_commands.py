"""`guildllama admin`: serves the operator's web page, and makes the hash of its password."""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import Annotated

import typer

from bot.admin.access.address import check_address
from bot.admin.access.passwords import MAX_CHARS, MIN_CHARS, hash_password
from bot.admin.server import serve_admin
from bot.log import configure_log
from bot.settings import load_settings
from bot.storage import open_checked
from bot.terminal.output import one_line_errors

admin_app = typer.Typer(
    help="A web page for looking into the database: guilds, members, personas, conversations, figures.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@admin_app.callback()
def admin(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Listen here instead of GUILDLLAMA_ADMIN_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port, instead of GUILDLLAMA_ADMIN_PORT; 0: any.")
    ] = None,
) -> None:
    """Serve the page until Ctrl-C. Without a password it prints a link that signs in once."""
    if ctx.invoked_subcommand is not None:
        return

    async def work() -> None:
        settings = load_settings(admin_host=host, admin_port=port)
        check_address(settings)
        configure_log(settings)
        database = open_checked(settings)
        try:
            await serve_admin(settings, database, _say)
        finally:
            await database.close()

    with one_line_errors():
        asyncio.run(work())


@admin_app.command("password")
def password_command() -> None:
    """Ask for a password twice, and print the line for .env with its hash. The password itself is kept nowhere."""
    if sys.stdin.isatty():
        password, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
    else:
        password = again = sys.stdin.readline().rstrip("\n")
    problem = ""
    if password != again:
        problem = "the two are not the same"
    elif not MIN_CHARS <= len(password) <= MAX_CHARS:
        problem = f"a password has {MIN_CHARS} to {MAX_CHARS} characters"
    if problem:
        sys.stderr.write(f"guildllama: {problem}\n")
        raise typer.Exit(1)
    sys.stdout.write(f"GUILDLLAMA_ADMIN_PASSWORD_HASH='{hash_password(password)}'\n")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
