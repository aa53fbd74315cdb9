"""The work of the chat command, once its options are parsed: open the services, use them, close them."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import typer

from bot.services import Services, open_services, stopped_by_signals
from bot.settings import Settings
from bot.terminal.applications import act_for_one
from bot.terminal.console import Console
from bot.terminal.screen import PlainScreen, Screen, TerminalScreen
from models.application import TERMINAL
from models.types import DialogKey

T = TypeVar("T")


def chat_in_terminal(
    settings: Settings, guild: int, user: int, message: str | None, application: int = TERMINAL
) -> None:
    """Run the terminal chat, or send one message, by default with its own dialogs. Raises ConfigError or BotError."""
    screen = _screen(plain=message is not None)

    async def talk() -> bool:
        with stopped_by_signals(signal.SIGTERM) as received:
            async with open_services(settings) as services:
                await act_for_one(services.database, application)
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


def with_services(settings: Settings, work: Callable[[Services], Awaitable[T]], application: int | None = None) -> T:
    """Run one piece of work for an application, by default for the only one that was started with the database.

    Starts no engine, since that takes too long: only an external one can count tokens.
    """

    async def do() -> T:
        async with open_services(settings, start_engine=False) as services:
            await act_for_one(services.database, application)
            return await work(services)

    return asyncio.run(do())
