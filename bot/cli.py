"""The `guildllama` command line: names, options and exit codes.

Exit codes: 0 success, 1 failure, 2 wrong usage, 78 a setting that cannot work. Each command imports what it needs when
it runs, so that --help and wrong usage answer at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bot.errors import EXIT_CONFIG, BotError, ConfigError
from models.types import LARGEST_ID

if TYPE_CHECKING:
    from bot.settings import Settings


app = typer.Typer(
    help="A Discord chatbot with a memory, and the Llama that speaks through it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
persona_app = typer.Typer(help="Who the bot is, for a guild or for one member in it.", no_args_is_help=True)
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


@app.command()
def run(
    shards: Annotated[
        str | None,
        typer.Option(help="Which shards: 0-3/16, 5/16, or auto/16 for a share by lease. As GUILDLLAMA_SHARDS."),
    ] = None,
) -> None:
    """Be on Discord, until SIGTERM or Ctrl-C."""
    settings = _settings(shards=shards)
    if settings.discord_token is None or not settings.discord_token.get_secret_value().strip():
        raise ConfigError(
            "GUILDLLAMA_DISCORD_TOKEN",
            "is not set",
            "Copy it from the Bot page of your application at https://discord.com/developers/applications.",
        )
    import asyncio

    from bot.log import configure_log
    from bot.services import serve

    configure_log(settings)
    sys.setswitchinterval(SWITCH_INTERVAL)
    asyncio.run(serve(settings))


@app.command()
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


@app.command()
def doctor() -> None:
    """Check settings, database, engine and token, and say what is wrong."""
    from bot.terminal.doctor import examine

    raise typer.Exit(examine())


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
    single.command()(cleanup_command)
    _delegate(single, ctx)


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
        app()
    except ConfigError as error:
        typer.echo(f"guildllama: {error.line}", err=True)
        sys.exit(EXIT_CONFIG)
    except BotError as error:
        typer.echo(f"guildllama: {error.user_message}", err=True)
        sys.exit(1)
