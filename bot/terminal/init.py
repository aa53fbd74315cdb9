"""`guildllama init`: asks for token, database and model, checks the answers, and writes them into a settings file.

Answers come from a terminal or, one a line, from a pipe. The file is complete or not written; one that exists stays
unless that was asked and answered with yes, and then stays beside the new one. Asks neither Discord nor a database.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import typer

from bot.errors import ConfigError
from bot.settings import EMBEDDED_MODEL, PREFIX, Settings, load_settings
from bot.terminal.screen import wrapped
from models import errors as stored
from models.private_files import FILE_MODE
from models.urls import sqlite_path

COMPOSE_SECRETS = ("POSTGRES_PASSWORD", "ENGINE_API_KEY")
"""Variables of compose.yaml that are no settings of ours; each file has its own random ones."""

_PLAIN = re.compile(r"[\w./:@%+,=~?&-]+", re.ASCII)  # needs no quotes for us, a shell, systemd or Docker
_UNQUOTABLE = ("'", "\\", "${")  # within single quotes: ends them, escapes, is replaced
_DEFAULT_DATABASE = str(Settings.model_fields["database_url"].default)

_ASK_FIRST = """1. The bot's token, from https://discord.com/developers/applications: on the
   Bot page of your application press Reset Token, and copy it.
   Empty: without Discord for now. `guildllama chat` works without it.
   Token (not shown): """
_ASK_DATABASE = f"""2. Where conversations are kept: postgresql://USER:PASSWORD@HOST/NAME,
   or a file for SQLite.
   Database [{_DEFAULT_DATABASE}]: """
_ASK_MODEL = f"""3. The model: a name that `guildllama models` lists, a path, or the http:// URL
   of an engine that runs already. {EMBEDDED_MODEL} is small, and built in.
   Model [{EMBEDDED_MODEL}]: """


def write_settings_file(file: Path) -> None:
    """Ask, and write. Raises ConfigError for an answer from a pipe that cannot work, typer.Exit if told to leave."""
    if file.is_dir():
        raise ConfigError("--file", f"{file} is a folder", "Name a file, such as .env.")
    existed = file.exists() or file.is_symlink()
    if existed and _ask(f"{file} exists. Write a new one, and keep this one as {_beside(file).name}? [y/N] ") not in {
        "y", "Y", "yes", "Yes",
    }:  # fmt: skip
        typer.echo(f"guildllama: {file} stays as it is", err=True)
        raise typer.Exit(1)
    values = {f"{PREFIX}DISCORD_TOKEN": _answer(_ASK_FIRST, _token, secret=True)}
    values |= {f"{PREFIX}DATABASE_URL": _answer(_ASK_DATABASE, _database)}
    model = _answer(_ASK_MODEL, _model)
    values |= {f"{PREFIX}{'ENGINE_URL' if '://' in model else 'MODEL'}": model}
    text = _file_text(values)
    _write(file, text)
    typer.echo(f"\n{file} is written; only you can read it.\ndocs/configuration.md has all other settings.")
    prefix = "" if file.name == ".env" and file.parent == Path() else f"In the folder of {file}, named .env: "
    run = "run` goes on" if values[f"{PREFIX}DISCORD_TOKEN"] else "chat` talks in the terminal, without"
    typer.echo(f"{prefix}`guildllama doctor` checks everything, `guildllama {run} Discord.")


def _answer(question: str, check: Callable[[str], str], *, secret: bool = False) -> str:
    """A valid answer. A person is asked again after a wrong one; a pipe is refused."""
    while True:
        text = _ask(question, secret=secret)
        try:
            return check(text)
        except ConfigError as error:
            if not sys.stdin.isatty():
                raise
            typer.echo(f"   {wrapped(error.line, indent=3)}", err=True)
            question = question.rpartition("\n")[2]


def _ask(question: str, *, secret: bool = False) -> str:
    """One line of the terminal or the pipe, without blanks around it. "" once the pipe has ended."""
    sys.stdout.write(question)
    sys.stdout.flush()
    if sys.stdin.isatty():
        try:
            return (getpass.getpass("") if secret else input()).strip()
        except EOFError:
            typer.echo("\nguildllama: nothing was written", err=True)
            raise typer.Exit(1) from None
    line = sys.stdin.readline()
    sys.stdout.write("\n")
    return line.strip()


def _token(text: str) -> str:
    name = f"{PREFIX}DISCORD_TOKEN"
    if text and not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", text, re.ASCII):
        raise ConfigError(name, "a token has three parts with dots between them", "Copy the whole token and no more.")
    _check(discord_token=text)
    return text


def _database(text: str) -> str:
    if not text:
        return _DEFAULT_DATABASE
    url = text if "://" in text else f"sqlite:///{text}"
    _check(database_url=url)
    try:
        sqlite_path(url)
    except stored.DatabaseUnavailable as error:
        raise ConfigError(f"{PREFIX}DATABASE_URL", error.reason, "") from None
    if not url.startswith("sqlite:") and not urlsplit(url).hostname and "host=" not in url:
        raise ConfigError(f"{PREFIX}DATABASE_URL", "names no host", "Write postgresql://USER:PASSWORD@HOST/NAME.")
    return url


def _model(text: str) -> str:
    if not text:
        return EMBEDDED_MODEL
    _check(**{"engine_url" if "://" in text else "model": text})
    return text


def _check(**values: str) -> None:
    """Raises ConfigError for a value that no setting takes, or that a settings file would not give back as it is."""
    for name, value in values.items():
        if not value.isprintable() or any(sign in value for sign in _UNQUOTABLE):
            signs = ", ".join(_UNQUOTABLE)
            raise ConfigError(f"{PREFIX}{name}".upper(), f"has {signs} or an invisible character", "Leave it out.")
    load_settings(env_file=None, **values)


def _file_text(values: dict[str, str]) -> str:
    lines = [
        "# Settings of guildllama, written by `guildllama init`. docs/configuration.md has all that there are.",
        "# This file holds secrets: keep it to yourself, and out of version control.",
        *(_line(name, value) for name, value in values.items()),
        "",
        "# Of compose.yaml only: of its Postgres, and of its engine.",
        *(_line(name, secrets.token_urlsafe(24)) for name in COMPOSE_SECRETS),
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, value: str) -> str:
    quoted = value if not value or _PLAIN.fullmatch(value) else f"'{value}'"
    return f"{name}={quoted}"


def _write(file: Path, text: str) -> None:
    """Write the file with mode 0600, whatever the umask: first beside it, then under its name."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
        part = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            part.chmod(FILE_MODE)
            if file.exists() or file.is_symlink():
                old = _beside(file)
                file.rename(old)
                if not old.is_symlink():
                    old.chmod(FILE_MODE)
            # Fails if another process has written it meanwhile.
            os.link(part, file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(str(file), f"cannot be written: {error.strerror}", "Nothing was changed.") from None


def _beside(file: Path) -> Path:
    """The first free name for the file that is replaced."""
    number, name = 1, file.with_name(f"{file.name}.old")
    while name.exists() or name.is_symlink():
        number += 1
        name = file.with_name(f"{file.name}.old{number}")
    return name
