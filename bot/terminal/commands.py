"""The work of the chat and persona commands, once their options are parsed: open the services, use them, close them."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import typer

from bot.errors import ConfigError
from bot.guilds.personas import SavedPersona
from bot.services import Services, open_services, stopped_by_signals
from bot.settings import Settings
from bot.terminal.console import Console
from bot.terminal.screen import PlainScreen, Screen, TerminalScreen
from models.types import DialogKey, PersonaText, StoredLevel

T = TypeVar("T")


def chat_in_terminal(settings: Settings, guild: int, user: int, message: str | None) -> None:
    """Run the terminal chat, or send one message. Raises ConfigError or BotError."""
    screen = _screen(plain=message is not None)

    async def talk() -> bool:
        with stopped_by_signals(signal.SIGTERM) as received:
            async with open_services(settings) as services:
                console = Console(services, DialogKey(guild, user), screen)
                if message is None:
                    await console.run()
                else:
                    await console.say(message)
        return bool(received)

    if asyncio.run(talk()):
        raise typer.Exit(128 + signal.SIGTERM)


def _screen(*, plain: bool) -> Screen:
    if not plain and sys.stdin.isatty() and sys.stdout.isatty():
        return TerminalScreen()
    return PlainScreen(sys.stdin.buffer, sys.stdout, sys.stderr)


def show_persona(settings: Settings, guild: int, user: int | None) -> None:
    """Print the persona that applies in a guild, or to one member in it."""

    def show(services: Services) -> Awaitable[PersonaText]:
        # There is no user 0, so this is the guild's persona.
        return services.personas.show(DialogKey(guild, user or 0))

    persona = _with_services(settings, show)
    named = f" {persona.name!r}" if persona.name else ""
    typer.echo(f"{persona.prompt}\n({persona.level} persona{named}, version {persona.version})")


def set_persona(settings: Settings, guild: int, user: int | None, prompt: str, name: str) -> None:
    """Set the persona of a guild, or of one member in it. Raises ConfigError or BotError."""
    level = _level(guild, user)

    def store(services: Services) -> Awaitable[SavedPersona]:
        return services.personas.set(DialogKey(guild, user or 0), level, prompt, name, author_id=user)

    stored = _with_services(settings, store)
    typer.echo(f"Set for the {level}, version {stored.version}.")


def clear_persona(settings: Settings, guild: int, user: int | None) -> None:
    """Clear the persona of a guild, or of one member in it. Raises ConfigError or BotError."""
    level = _level(guild, user)
    cleared = _with_services(settings, lambda services: services.personas.clear(DialogKey(guild, user or 0), level))
    typer.echo("Cleared." if cleared else "There was none.")


def _level(guild: int, user: int | None) -> StoredLevel:
    if guild == 0 and user is None:
        raise ConfigError("--guild", "direct messages have no persona in common", "Name a --guild, a --user or both.")
    return "guild" if user is None else "member"


def _with_services(settings: Settings, work: Callable[[Services], Awaitable[T]]) -> T:
    """Run one piece of work. Starts no engine, since that takes too long: only an external one can count tokens."""

    async def do() -> T:
        async with open_services(settings, start_engine=False) as services:
            return await work(services)

    return asyncio.run(do())
