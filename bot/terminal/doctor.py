"""`guildllama doctor`: checks everything that the bot needs to start, and prints one line for each finding."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import typer

from bot.errors import EXIT_CONFIG, BotError, ConfigError
from bot.hub.resolve import resolve_model
from bot.services import external_engine
from bot.settings import Settings, load_settings, unknown_variables
from bot.telemetry.server import listening_socket
from bot.telemetry.span_export import INSTALL, MISSING, tracing_is_installed
from models import errors as stored
from models.migrate import check_revision, head_revision
from models.private_files import readable_by_others
from models.urls import masked_url, sqlite_path

_INSPECT_TIMEOUT = 120  # seconds


class _Report:
    def __init__(self) -> None:
        self.exit_code = 0

    def fine(self, what: str, found: str) -> None:
        typer.echo(f"{typer.style('ok  ', fg='green')} {what}: {found}")

    def note(self, what: str, found: str) -> None:
        typer.echo(f"{typer.style('note', fg='yellow')} {what}: {found}")

    def wrong(self, what: str, found: str, exit_code: int = 1) -> None:
        self.exit_code = max(self.exit_code, exit_code)
        typer.echo(f"{typer.style('bad ', fg='red')} {what}: {found}")


def examine() -> int:
    """Print the findings and return the exit code: 0, 1, or 78 for a database that no command would use."""
    report = _Report()
    version = ".".join(map(str, sys.version_info[:3]))
    (report.fine if (3, 11) <= sys.version_info[:2] < (3, 14) else report.wrong)("python", version)
    try:
        settings = load_settings()
    except ConfigError as error:
        report.wrong("settings", error.line)
        return report.exit_code
    report.fine("settings", "every value can be used")
    for name, near in unknown_variables():
        report.note("settings", f"{name} is no setting of this program" + (f"; did you mean {near}?" if near else ""))
    _token(settings, report)
    _database(settings, report)
    _monitoring(settings, report)
    if settings.engine_url is None:
        _own_engine(settings, report)
    else:
        asyncio.run(_external_engine(settings, settings.engine_url, report))
    return report.exit_code


def _token(settings: Settings, report: _Report) -> None:
    token = settings.discord_token
    if token is None or not token.get_secret_value().strip():
        report.note(
            "discord", "GUILDLLAMA_DISCORD_TOKEN is not set; the terminal chat needs none, `guildllama run` does"
        )
    elif token.get_secret_value().count(".") != 2:
        report.wrong("discord", "GUILDLLAMA_DISCORD_TOKEN does not look like a token (three parts with dots between)")
    else:
        report.fine("discord", "a token is set (Discord itself was not asked)")


def _database(settings: Settings, report: _Report) -> None:
    try:
        where = masked_url(settings.database_url)
        check_revision(settings.database_url)
    except stored.RevisionError as error:
        if error.found is None:
            report.note("database", f"{where} is empty; the first start creates the tables")
        else:
            report.wrong("database", str(error), EXIT_CONFIG)
    except stored.DatabaseUnavailable as error:
        report.wrong("database", f"GUILDLLAMA_DATABASE_URL: {error}")
    except stored.DatabaseError as error:
        report.wrong("database", f"GUILDLLAMA_DATABASE_URL: {error}", EXIT_CONFIG)
    else:
        report.fine("database", f"{where} at revision {head_revision()}")
        _file_modes(settings.database_url, report)


def _file_modes(url: str, report: _Report) -> None:
    """Files of older versions, or made open on purpose: named, and left as they are."""
    database = sqlite_path(url)
    for path, mode in [] if database is None else readable_by_others(database):
        fix = "700" if path.is_dir() else "600"
        report.note(
            "files", f"{path} has mode {mode:04o}: other users of this machine may read it; `chmod {fix} {path}`"
        )


def _monitoring(settings: Settings, report: _Report) -> None:
    """Whether the numbers can be served and traces be sent; nothing is said where neither is wanted."""
    if settings.metrics_port is not None:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        try:
            listening_socket(settings.metrics_host, settings.metrics_port).close()
        except OSError as error:
            why = error.strerror or error
            report.note(
                "metrics",
                f"GUILDLLAMA_METRICS_PORT: {where} cannot be listened on now ({why}); right while the bot runs",
            )
        else:
            report.fine("metrics", f"http://{where}/metrics is free")
    if settings.traces_url is not None:
        if tracing_is_installed():
            report.fine("traces", f"are sent to {settings.traces_url} (it was not asked)")
        else:
            report.wrong("traces", f"GUILDLLAMA_TRACES_URL {MISSING}. {INSTALL}")


def _own_engine(settings: Settings, report: _Report) -> None:
    """Have the engine inspect the model, because it knows the formats."""
    try:
        model = resolve_model(settings)
    except ConfigError as error:
        report.wrong("engine", error.line)
        return
    command = [sys.executable, "-m", "engine", "inspect", model, "--world-size", str(settings.gpus or 1)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSPECT_TIMEOUT, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        report.wrong("engine", f"GUILDLLAMA_MODEL={settings.model} could not be looked at: {error}")
        return
    if done.returncode == 0:
        report.fine("engine", f"our own, with GUILDLLAMA_MODEL={settings.model}")
    else:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        report.wrong("engine", f"GUILDLLAMA_MODEL={settings.model}: {said.removeprefix('engine: ')}")


async def _external_engine(settings: Settings, url: str, report: _Report) -> None:
    async with external_engine(settings, url) as engine:
        try:
            name = await engine.model()
            ready = await engine.ready()
        except BotError as error:
            report.wrong("engine", f"GUILDLLAMA_ENGINE_URL={url}: {error}")
            return
    context = f", context {engine.context_length:,} tokens" if engine.context_length else ""
    if ready:
        report.fine("engine", f"{url} serves {name}{context}")
    else:
        report.note("engine", f"{url} serves {name}{context}, and says that it is not ready yet")
