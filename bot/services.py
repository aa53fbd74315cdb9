"""Builds the parts of the bot out of its settings, in the right order, and takes them apart again.

Used by the terminal, by Discord and by the small commands alike. Knows every service and no front-end, except that
`serve` starts Discord's by a late import, so that no other command pays for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.engine_process.supervisor import EngineProcess
from bot.guilds.personas import PersonaService
from bot.settings import Settings
from bot.terminal.output import config_errors, encryption_keys
from models.database import Database
from models.errors import RevisionError
from models.migrate import check_revision, upgrade

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    database: Database
    engine: EngineClient
    process: EngineProcess | None
    """The engine, where it is ours; None where GUILDLLAMA_ENGINE_URL names another."""
    chat: ChatService
    personas: PersonaService


def prepare_database(url: str) -> None:
    """Create the schema in an empty database; refuse any other that is not exactly ours. Blocking.

    An older schema is not migrated here: that takes a moment at which nothing else runs, and perhaps a backup before.
    """
    with config_errors():
        try:
            check_revision(url)
        except RevisionError as error:
            if error.found is not None:
                raise
            upgrade(url)


def open_database(settings: Settings) -> Database:
    with config_errors():
        return Database(settings.database_url, encryption_keys=encryption_keys(settings))


def external_engine(settings: Settings, url: str) -> EngineClient:
    key = settings.engine_api_key
    return EngineClient(url, None if key is None else key.get_secret_value(), model=settings.model_name)


@asynccontextmanager
async def open_services(settings: Settings, *, start_engine: bool = True) -> AsyncIterator[Services]:
    """Everything that a front-end needs. The engine is started first, since it takes the longest, and not waited for.

    Raises ConfigError for a database that cannot be used. Without `start_engine` there is an engine only if it runs
    elsewhere.
    """
    async with AsyncExitStack() as stack:
        process: EngineProcess | None = None
        if settings.engine_url is not None or not start_engine:
            engine = await stack.enter_async_context(
                external_engine(settings, settings.engine_url or "http://127.0.0.1:9/v1")
            )
        else:
            process = await stack.enter_async_context(EngineProcess(settings))
            engine = process.client
        await asyncio.to_thread(prepare_database, settings.database_url)
        database = open_database(settings)
        stack.push_async_callback(database.close)
        chat = ChatService(database=database, engine=engine, settings=settings)
        stack.push_async_callback(chat.close, 0.0)
        yield Services(settings, database, engine, process, chat, PersonaService(database, engine, settings))


async def serve(settings: Settings) -> None:
    """Be the Discord bot until SIGTERM or Ctrl-C."""
    from bot.discord_app.run import run_discord
    from bot.guilds.recovery import RecoveryJob
    from bot.guilds.retention import RetentionJobs

    with stopped_by_signals(signal.SIGTERM, signal.SIGINT):
        async with open_services(settings) as services:
            log.info("started", engine=settings.engine_url or "own", model=settings.model)
            jobs = RetentionJobs(database=services.database, settings=settings)
            jobs.start()
            recovery = RecoveryJob(database=services.database, chat=services.chat, settings=settings)
            recovery.start()
            discord = asyncio.create_task(run_discord(services, settings))
            refused = asyncio.create_task(_engine_refused(services.process))
            try:
                await asyncio.wait([discord, refused], return_when=asyncio.FIRST_COMPLETED)
                if not discord.done():
                    refused.result()
                await discord
            finally:
                await recovery.close()
                await jobs.close()
                for task in (discord, refused):
                    task.cancel()
                await asyncio.gather(discord, refused, return_exceptions=True)
    log.info("stopped")


async def _engine_refused(process: EngineProcess | None) -> None:
    """Raises once our engine says that its settings can never work."""
    if process is None:
        await asyncio.Event().wait()
    else:
        raise await process.failed()


@contextlib.contextmanager
def stopped_by_signals(*numbers: signal.Signals) -> Iterator[list[signal.Signals]]:
    """These signals end the block cleanly, wherever it is just now; the list then holds the one that did."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    told: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        told.append(number)
        if task is not None:
            task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield told
    except asyncio.CancelledError:
        if not told:
            raise
        if task is not None:
            task.uncancel()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
