"""The `guildllama` command line: names, options and exit codes.

Exit codes: 0 success, 1 failure, 2 wrong usage, 78 a setting that cannot work. Each command imports what it needs when
it runs, so that --help and wrong usage answer at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bot.errors import EXIT_CONFIG, BotError, ConfigError
from bot.terminal import help_texts
from models.types import LARGEST_ID

if TYPE_CHECKING:
    from bot.settings import Settings


app = typer.Typer(
    help="A Discord chatbot with a memory, and the Llama that speaks through it.",
    epilog=help_texts.PROGRAM,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
persona_app = typer.Typer(
    help="Who the bot is, for a guild or for one member in it.", epilog=help_texts.PERSONA, no_args_is_help=True
)
app.add_typer(persona_app, name="persona")

Guild = Annotated[
    int, typer.Option("--guild", "-g", min=0, max=LARGEST_ID, help="The guild's id; 0 stands for direct messages.")
]
User = Annotated[int, typer.Option("--user", "-u", min=0, max=LARGEST_ID, help="The member's id.")]
OneUser = Annotated[
    int | None, typer.Option("--user", "-u", min=0, max=LARGEST_ID, help="This member's own persona in the guild.")
]

OneApplication = Annotated[
    int | None,
    typer.Option(
        "--application", min=0, max=LARGEST_ID, help="The Discord application, if several bots use the database."
    ),
]
TerminalOrApplication = Annotated[
    int, typer.Option("--application", min=0, max=LARGEST_ID, help="A Discord application; 0 is the terminal's own.")
]

SWITCH_INTERVAL = 0.0005
"""Seconds after which the event loop's thread hands over the GIL, for which the database's thread waits."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"guildllama {help_texts.version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """A Discord chatbot with a memory, and the Llama that speaks through it."""


@app.command(epilog=help_texts.INIT)
def init(
    file: Annotated[Path, typer.Option("--file", help="The settings file to write.")] = Path(".env"),
) -> None:
    """Ask three questions, and write a settings file for you alone."""
    from bot.terminal.init import write_settings_file

    write_settings_file(file)


@app.command(epilog=help_texts.RUN)
def run(
    shards: Annotated[
        str | None,
        typer.Option(help="Which shards: 0-3/16, 5/16, or auto/16 for a share by lease. As GUILDLLAMA_SHARDS."),
    ] = None,
) -> None:
    """Be on Discord until Ctrl-C or SIGTERM. SIGHUP rereads the settings."""
    settings = _settings(shards=shards)
    if settings.discord_token is None or not settings.discord_token.get_secret_value().strip():
        raise ConfigError(
            "GUILDLLAMA_DISCORD_TOKEN",
            "is not set",
            "Copy it from the Bot page of your application at https://discord.com/developers/applications; "
            "`guildllama init` writes it into .env.",
        )
    import asyncio

    from bot.log import configure_log
    from bot.services import serve

    configure_log(settings)
    sys.setswitchinterval(SWITCH_INTERVAL)
    asyncio.run(serve(settings))


@app.command(epilog=help_texts.CHAT)
def chat(
    guild: Guild = 0,
    user: User = 0,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Say this, print the reply, leave.")] = None,
    application: TerminalOrApplication = 0,
) -> None:
    """Talk in the terminal, as any member of any guild."""
    settings = _settings()
    from bot.log import configure_log
    from bot.terminal.commands import chat_in_terminal

    configure_log(settings, level=settings.log_level if settings.log_level in {"DEBUG", "ERROR"} else "ERROR")
    try:
        chat_in_terminal(settings, guild, user, message, application)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@persona_app.command("show")
def persona_show(guild: Guild = 0, user: OneUser = None, application: OneApplication = None) -> None:
    """Show the persona that applies."""
    from bot.terminal.persona_commands import show_persona

    show_persona(_settings(), guild, user, application)


@persona_app.command("set")
def persona_set(
    prompt: Annotated[str, typer.Argument(help="The system prompt; - reads it from standard input.")],
    guild: Guild = 0,
    user: OneUser = None,
    application: OneApplication = None,
    name: Annotated[str, typer.Option(help="What to call it.")] = "",
) -> None:
    """Give the bot another persona."""
    from bot.terminal.persona_commands import set_persona

    text = sys.stdin.buffer.read().decode(errors="replace") if prompt == "-" else prompt
    set_persona(_settings(), guild, user, application, text, name)


@persona_app.command("clear")
def persona_clear(guild: Guild = 0, user: OneUser = None, application: OneApplication = None) -> None:
    """Go back to the persona that applies without this one."""
    from bot.terminal.persona_commands import clear_persona

    clear_persona(_settings(), guild, user, application)


@persona_app.command("list")
def persona_list(guild: Guild = 0, user: OneUser = None, application: OneApplication = None) -> None:
    """List the personas that a guild keeps, or one member in it."""
    from bot.terminal.persona_commands import list_personas

    list_personas(_settings(), guild, user, application)


@persona_app.command("create")
def persona_create(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    prompt: Annotated[str, typer.Argument(help="The system prompt; - reads it from standard input.")],
    guild: Guild = 0,
    user: OneUser = None,
    application: OneApplication = None,
) -> None:
    """Keep another persona, without letting it answer."""
    from bot.terminal.persona_commands import create_persona

    text = sys.stdin.buffer.read().decode(errors="replace") if prompt == "-" else prompt
    create_persona(_settings(), guild, user, application, name, text)


@persona_app.command("delete")
def persona_delete(
    name: Annotated[str, typer.Argument(help="Which one.")],
    guild: Guild = 0,
    user: OneUser = None,
    application: OneApplication = None,
) -> None:
    """Delete a persona with all its versions, wherever it answers."""
    from bot.terminal.persona_commands import delete_persona

    delete_persona(_settings(), guild, user, application, name)


@app.command(epilog=help_texts.DOCTOR)
def doctor(
    only: Annotated[
        list[str] | None, typer.Option("--only", help=f"Check this part alone: {', '.join(help_texts.PARTS)}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Check everything that the bot needs, and say what mends it."""
    from bot.terminal.doctor.examination import examine

    raise typer.Exit(examine(only=only or (), as_json=as_json))


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def db(ctx: typer.Context) -> None:
    """Look into the database, check it, move it."""
    from bot.terminal.db_commands import db_app

    _delegate(db_app, ctx)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def models(ctx: typer.Context) -> None:
    """See which models fit this machine, fetch them, remove them."""
    from bot.terminal.models_commands import models_app

    _delegate(models_app, ctx)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def cleanup(ctx: typer.Context) -> None:
    """End idle dialogs and purge old ones now; --dry-run only tells."""
    from bot.terminal.db_commands import cleanup_command

    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(epilog=help_texts.CLEANUP)(cleanup_command)
    _delegate(single, ctx)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def admin(ctx: typer.Context) -> None:
    """Serve a web page of the database; `admin password` protects it."""
    from bot.terminal.admin_commands import admin_app

    _delegate(admin_app, ctx)


def _with_every_command() -> typer.Typer:
    """This command line with the commands that are otherwise loaded when they run: for the shell's completion."""
    from bot.terminal.admin_commands import admin_app
    from bot.terminal.db_commands import cleanup_command, db_app
    from bot.terminal.models_commands import models_app

    delegated = {"db", "models", "cleanup", "admin"}
    app.registered_commands = [
        each
        for each in app.registered_commands
        if each.name not in delegated and getattr(each.callback, "__name__", "") not in delegated
    ]
    app.add_typer(db_app, name="db")
    app.add_typer(models_app, name="models")
    app.add_typer(admin_app, name="admin")
    app.command("cleanup")(cleanup_command)
    return app


def _delegate(other: typer.Typer, ctx: typer.Context) -> None:
    """Run another command line with the arguments that follow the command's name."""
    command = typer.main.get_command(other)
    command.main(list(ctx.args), prog_name=ctx.command_path)


def _settings(*, shards: str | None = None) -> Settings:
    from bot.settings import load_settings, unknown_variables

    settings = load_settings(shards=shards)
    for name, near in unknown_variables():
        hint = f"; did you mean {near}?" if near else "."
        typer.echo(f"guildllama: {name} is no setting of this program{hint}", err=True)
    return settings


def main() -> None:
    """The entry point. Renders ConfigError and BotError as one line on stderr and an exit code."""
    try:
        (_with_every_command() if "_GUILDLLAMA_COMPLETE" in os.environ else app)()
    except ConfigError as error:
        typer.echo(f"guildllama: {error.line}", err=True)
        sys.exit(EXIT_CONFIG)
    except BotError as error:
        typer.echo(f"guildllama: {error.user_message}", err=True)
        sys.exit(1)
