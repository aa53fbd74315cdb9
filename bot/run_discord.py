"""Runs the bot on Discord until it is told to stop: one connection to the gateway, or one for each of its shards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import structlog

from bot.cluster.leases import Leases
from bot.discord_app.connection import ask_discord, bot_token, set_endpoints
from bot.errors import ConfigError
from bot.settings import Settings
from bot.shard_client import Services, ShardClient
from bot.storage import translate_database_errors
from models.database import Database
from models.queries import application as queries
from models.types import Shard

log = structlog.get_logger(__name__)

_DELIVERY_TIMEOUT = 10.0  # seconds for the last edits, once no reply is being generated
IDENTIFY_SECONDS = 5.0
"""Between two sessions of a bucket: Discord's rule."""


async def enter_database(database: Database, start_jobs: Callable[[], Awaitable[None]], application_id: int) -> None:
    """Serve this application from now on, and start the jobs, at the first login.

    Other applications and other processes of this one may use the same database: each touches the rows of its own.
    """
    if database.application_id is not None:
        return
    # Of no tenant: it moves what belongs to no application yet, or to one that was given up.
    with translate_database_errors():
        database.application_id = application_id
        try:
            taken_from = await database.run(
                lambda session: queries.enter_application(session, application_id=application_id, now=datetime.now(UTC))
            )
        except BaseException:
            database.application_id = None
            raise
    if taken_from is not None:
        log.info("the rows of another application were taken over", application=application_id, before=taken_from)
    await start_jobs()


async def run_discord(
    services: Services, settings: Settings, leases: Leases, on_login: Callable[[], Awaitable[None]]
) -> None:
    """Run the Discord client until cancelled; then refuse new interactions, wait for running replies, and stop.

    `on_login` is called once the application is known. Raises ConfigError if the token is missing or refused.
    """
    set_endpoints(settings)
    clients = _Clients(services, settings, leases, partial(enter_database, services.database, on_login))
    leases.on_lead.append(clients.lead)
    try:
        await clients.run()
    except asyncio.CancelledError:
        log.info("stopping", grace_s=settings.shutdown_grace)
        await clients.refuse()
        await services.chat.close(settings.shutdown_grace)
        await clients.finish_tasks(_DELIVERY_TIMEOUT)
        raise
    finally:
        await clients.close()


class _Clients:
    """The connections of this process, by their shards; None is that of a bot that this process does not split."""

    def __init__(
        self, services: Services, settings: Settings, leases: Leases, on_login: Callable[[int], Awaitable[None]]
    ) -> None:
        self._services = services
        self._settings = settings
        self._leases = leases
        self._on_login = on_login
        self._token = bot_token(settings)
        self._plan = settings.shard_plan
        self._clients: dict[int | None, ShardClient] = {}
        self._leaving: set[ShardClient] = set()
        """Those whose shards are others' now, and which finish their replies."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._synced = False
        self._concurrency = 1
        self._entering = asyncio.Lock()

    async def run(self) -> None:
        """Stay on Discord. Returns if the only connection ends; raises what one of them raised."""
        if self._plan is None:
            self._open(None)
        else:
            application_id, self._concurrency = await ask_discord(self._token)
            for shard in self._plan.ids or ():
                self._open(shard)
            if self._plan.ids is None:
                self._leases.on_shards = self._want
                await self._enter(application_id)
        while True:
            self._changed.clear()
            running = {client.connection for client in self._clients.values()}
            change = asyncio.create_task(self._changed.wait())
            try:
                done, _ = await asyncio.wait({*running, change}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()
            for task in done & {client.connection for client in self._clients.values()}:
                task.result()
                if self._plan is None:
                    return
                raise ConfigError("GUILDLLAMA_SHARDS", "lost a connection to Discord for good", "Look at the log.")

    def lead(self) -> None:
        """This process leads from now on: register the commands, unless a client is about to do so."""
        client = next((each for each in self._clients.values() if each.bot.has_commands), None)
        if client is not None and self._may_sync():
            self._track(asyncio.create_task(client.sync(), name="sync-commands"))

    async def refuse(self) -> None:
        """Take nothing new: leave shards that others can have now to them, else refuse new interactions."""
        self._leases.on_shards = lambda shards: None
        if self._plan is not None and self._plan.ids is None:
            await asyncio.gather(*(client.disconnect() for client in self._clients.values()))
            await self._leases.leave_shards()
        for client in self._all:
            client.refuse()

    @property
    def _all(self) -> list[ShardClient]:
        return [*self._clients.values(), *self._leaving]

    async def finish_tasks(self, seconds: float) -> None:
        """Wait for what is being served."""
        await asyncio.gather(*(client.finish_tasks(seconds) for client in self._all))

    async def close(self) -> None:
        """Leave Discord."""
        self._leases.on_shards = lambda shards: None
        await asyncio.gather(*(client.close() for client in self._all))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _want(self, shards: frozenset[int]) -> None:
        """Have these shards from now on."""
        for shard in [each for each in self._clients if each is not None and each not in shards]:
            client = self._clients.pop(shard)
            log.info("a shard is left to others", shard=shard)
            self._leaving.add(client)
            self._track(asyncio.create_task(self._leave(client), name="leave"))
        for shard in sorted(shards - self._clients.keys()):
            self._open(shard)
        self._changed.set()

    async def _leave(self, client: ShardClient) -> None:
        try:
            await client.leave()
        finally:
            self._leaving.discard(client)

    def _open(self, shard: int | None) -> None:
        self._clients[shard] = ShardClient(
            self._services,
            self._settings,
            self._token,
            shard=None if shard is None or self._plan is None else Shard(shard, self._plan.count),
            on_login=self._enter,
            may_sync=self._may_sync,
            responsible=partial(self._is_responsible, shard),
            identify=None if shard is None else self._identify,
        )

    async def _enter(self, application_id: int) -> None:
        async with self._entering:  # several connections log in at the same time
            await self._on_login(application_id)

    def _may_sync(self) -> bool:
        """Whether the commands are to be registered now, by who asks: once, by the leader."""
        if not self._leases.leads or self._synced:
            return False
        self._synced = True
        return True

    def _is_responsible(self, shard: int | None, guild_id: int) -> bool:
        """Whether this connection finishes what is left of this guild: of several in a process exactly one."""
        if shard is None or self._plan is None:
            return True
        own = [each for each in self._clients if each is not None]
        count = self._plan.count
        home = next((each for each in own if Shard(each, count).has(guild_id)), min(own, default=None))
        return home == shard

    async def _identify(self, shard: int) -> None:
        await self._leases.identify(shard % self._concurrency, IDENTIFY_SECONDS)

    def _track(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
