"""Builds the services from the settings, in the right order, and closes them again.

Used by the Discord bot, the terminal chat and the short commands alike. Knows every service and no front-end, except
that `serve` runs the Discord bot: it imports it late, so that no other command waits for that import.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog

from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.engine_client.engine import Engine
from bot.engine_client.model_list import ModelList
from bot.engine_client.replicas.address import alone, numbered
from bot.engine_client.replicas.replica import Replica
from bot.engine_client.replicas.replica_set import ReplicaSet
from bot.engine_process.supervisor import EngineProcess
from bot.garbage import freeze_garbage
from bot.guilds.personas import PersonaService
from bot.loop_lag import LoopLag
from bot.reload import reloaded_by_hangup
from bot.settings import Settings
from bot.settings.addresses import without_credentials
from bot.settings.listed_models import ListedModel
from bot.storage import open_database, prepare_database
from bot.telemetry.metrics import begin_models
from bot.telemetry.server import monitored
from bot.warm_up import warm_up
from models.application import TERMINAL
from models.database import Database

log = structlog.get_logger(__name__)

_NO_ENGINE = "http://127.0.0.1:9/v1"
"""Port 9, discard: refuses every connection."""


@dataclass(frozen=True, slots=True)
class Services:
    """What a front-end works with."""

    settings: Settings
    database: Database
    models: ModelList
    process: EngineProcess | None
    """Our own engine, or None if GUILDLLAMA_ENGINE_URL names another server."""
    chat: ChatService
    personas: PersonaService


def external_engine(settings: Settings) -> EngineClient | ReplicaSet:
    """The servers of the default model, which we do not start: the client of one, or several as one engine."""
    servers = settings.engine_servers or ((_NO_ENGINE, None),)
    return _engine_at(servers, settings.model_name, settings)


def listed_engine(model: ListedModel, settings: Settings) -> EngineClient | ReplicaSet:
    """The servers of a model that guilds may choose. The log calls them by its name and their numbers."""
    return _engine_at(settings.servers_of(model), model.model_id, settings, model.name)


def _engine_at(
    servers: Sequence[tuple[str, str | None]], model_id: str | None, settings: Settings, listed_as: str = ""
) -> EngineClient | ReplicaSet:
    thinking = settings.thinking
    if len(servers) == 1:
        url, key = servers[0]
        name = alone(url, listed_as) if listed_as else ""
        return EngineClient(url, key, model=model_id, thinking=thinking, name=name)
    replicas = []
    for number, (url, key) in enumerate(servers, start=1):
        name = numbered(number, url, listed_as)
        client = EngineClient(url, key, model=model_id, thinking=thinking, name=name)
        replicas.append(Replica(number, url, client, name=name))
    return ReplicaSet(replicas, patience=settings.reply_timeout / 2)


def _engine_name(settings: Settings) -> str:
    """What the log calls the engine."""
    urls = [url for url, _ in settings.engine_servers]
    if len(urls) == 1:
        return without_credentials(urls[0])
    return ", ".join(numbered(number, url) for number, url in enumerate(urls, start=1)) or "own"


@asynccontextmanager
async def open_services(
    settings: Settings, *, start_engine: bool = True, application_id: int | None = TERMINAL
) -> AsyncIterator[Services]:
    """Open everything that a front-end needs. The engine starts first, since it takes longest, and is not waited for.

    `application_id`: whose rows are read and written; None, until the bot has logged in.
    Without `start_engine`, an engine of our own is not started, and every call to it fails. Raises ConfigError for a
    database that cannot be used.
    """
    async with AsyncExitStack() as stack:
        process: EngineProcess | None = None
        if settings.engine_url is not None or not start_engine:
            engine: Engine = await stack.enter_async_context(external_engine(settings))
        else:
            process = await stack.enter_async_context(EngineProcess(settings))
            engine = process.client
        listed: dict[str, Engine] = {
            model.name: await stack.enter_async_context(listed_engine(model, settings))
            for model in settings.listed_models
        }
        models = ModelList(engine, listed)
        await asyncio.to_thread(prepare_database, settings.database_url)
        database = open_database(settings, application_id=application_id)
        stack.push_async_callback(database.close)
        chat = ChatService(database=database, engine=models, settings=settings)
        stack.push_async_callback(chat.close, 0.0)
        yield Services(settings, database, models, process, chat, PersonaService(database, models, settings))


async def serve(settings: Settings) -> None:
    """Run the Discord bot until SIGTERM or Ctrl-C. Raises ConfigError if Discord or our engine refuses a setting."""
    from bot.chat.recovery import RecoveryJob
    from bot.cluster.leases import Leases
    from bot.guilds.retention import RetentionJobs
    from bot.memory.job import MemoryJob
    from bot.memory.writer import MemoryWriter
    from bot.run_discord import run_discord

    with stopped_by_signals(signal.SIGTERM, signal.SIGINT), reloaded_by_hangup(settings):
        # First: a port that is taken is told at once, and the numbers are there while the model loads.
        async with monitored(settings) as page, open_services(settings, application_id=None) as services:
            page.models = services.models
            begin_models(services.models.engines)
            listed = [model.name for model in settings.listed_models]
            log.info("started", engine=_engine_name(settings), model=settings.model, listed_models=listed)
            plan = settings.shard_plan
            by_lease = plan.count if plan is not None and plan.ids is None else None
            leases = Leases(services.database, num_shards=by_lease)
            jobs = RetentionJobs(database=services.database, settings=settings, lead=leases)
            leases.on_lead.append(jobs.run_now)
            recovery = RecoveryJob(database=services.database, chat=services.chat, settings=settings)
            writer = MemoryWriter(database=services.database, engine=services.models, settings=settings)
            memory = MemoryJob(database=services.database, writer=writer, quiet=services.chat.quiet)

            async def start_jobs() -> None:
                """Whose rows the jobs look after is known once the bot has logged in.

                Turns of dead processes are ended first: what is unfinished of them is looked for right after this.
                """
                await recovery.run_once()
                await warm_up(services.database)
                freeze_garbage()  # from here on members wait for the loop
                await leases.start()
                jobs.start()
                recovery.start()
                if settings.memory:
                    memory.start()

            lag = LoopLag()
            lag.start()
            discord = asyncio.create_task(run_discord(services, settings, leases, on_login=start_jobs))
            refused = asyncio.create_task(_engine_refused(services.process))
            try:
                await asyncio.wait([discord, refused], return_when=asyncio.FIRST_COMPLETED)
                if not discord.done():
                    refused.result()
                await discord
            finally:
                await jobs.close()
                await memory.close()
                for task in (discord, refused):
                    task.cancel()
                await asyncio.gather(discord, refused, return_exceptions=True)
                await leases.close()
                await lag.close()
                await recovery.close()  # last: others take this process for dead without its heartbeat
    log.info("stopped")


async def _engine_refused(process: EngineProcess | None) -> None:
    """Raise ConfigError once our engine refuses its settings; otherwise wait forever."""
    if process is None:
        await asyncio.Event().wait()
    else:
        raise await process.failed()


@contextmanager
def stopped_by_signals(*numbers: signal.Signals) -> Iterator[list[signal.Signals]]:
    """Let these signals cancel the block. It then ends without an error, and the list contains the signal."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if task is not None:
            task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield received
    except asyncio.CancelledError:
        if not received:
            raise
        if task is not None:
            task.uncancel()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
