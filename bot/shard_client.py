"""One connection to Discord's gateway, with its client and its cogs: all guilds of the bot, or those of one shard.

A process may have several, which share its services. Knows neither the others nor who decides which shards there are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import structlog

from bot.chat.service import ChatService
from bot.cogs.all_cogs import make_cogs
from bot.discord_app.client import GuildLlama
from bot.discord_app.connection import stay_connected
from bot.discord_app.context import CommandContext
from bot.discord_app.languages import Languages
from bot.discord_app.permissions.gate import PermissionGate
from bot.discord_app.registration.command_sync import sync_commands
from bot.engine_client.model_list import ModelList
from bot.engine_client.prompt_cache import PromptCache
from bot.engine_client.pseudonyms import Pseudonyms
from bot.guilds.administration.blocks import MemberBlocks
from bot.guilds.bound_threads import BoundThreads
from bot.guilds.personas import PersonaService
from bot.guilds.privacy import PrivacyService
from bot.guilds.settings.member_settings import MemberSettingsCache
from bot.guilds.settings.settings_cache import GuildSettingsCache
from bot.safety.content import ContentFilters
from bot.settings import Settings
from bot.telemetry.gateway_sessions import GATEWAY_SESSIONS
from models.database import Database
from models.types import Shard

log = structlog.get_logger(__name__)

_LONGEST_REPLY = 960.0
"""Seconds: the token of an interaction, with which replies are edited, lives for 900."""


class Services(Protocol):
    """The services that the Discord front end needs."""

    @property
    def chat(self) -> ChatService:
        """Conversations."""

    @property
    def personas(self) -> PersonaService:
        """Personas of guilds and members."""

    @property
    def models(self) -> ModelList:
        """The models."""

    @property
    def database(self) -> Database:
        """The database of all."""


class ShardClient:
    """`shard`: instead of the one that the settings name. `responsible`: whether it finishes what a guild has left."""

    def __init__(
        self,
        services: Services,
        settings: Settings,
        token: str,
        *,
        shard: Shard | None = None,
        on_login: Callable[[int], Awaitable[None]],
        may_sync: Callable[[], bool],
        responsible: Callable[[int], bool] = lambda guild_id: True,
        identify: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._filters = ContentFilters(settings)
        self.bot, self._context = make_bot(
            services,
            settings,
            self._filters,
            shard=shard,
            on_login=on_login,
            may_sync=may_sync,
            responsible=responsible,
            identify=identify,
        )
        # A task of its own: it must read the gateway until the very end, also while its process is being cancelled.
        self.connection = asyncio.create_task(stay_connected(self.bot, token, self.bot.guard), name="discord")

    def refuse(self) -> None:
        """Refuse new interactions: the process ends."""
        self._context.gate.closed = True

    async def sync(self) -> None:
        """Register the commands, once the client has them."""
        if self.bot.has_commands:
            await sync_commands(self.bot, self.bot.tree)

    async def finish_tasks(self, seconds: float) -> None:
        """Wait for what is being served."""
        await self.bot.finish_tasks(seconds)

    async def disconnect(self) -> None:
        """End the session on the gateway; what is being served goes on."""
        GATEWAY_SESSIONS.given_up(self.bot)
        self.connection.cancel()
        await asyncio.gather(self.connection, return_exceptions=True)
        with contextlib.suppress(Exception):
            if self.bot.ws:
                await self.bot.ws.close(code=1000)
        ready = self.bot._connection._ready_task  # else it would tell a closed client that it is ready
        if ready is not None:
            ready.cancel()

    async def leave(self) -> None:
        """End the session on the gateway at once, wait until what is being served has ended, then close the client.

        Nobody else finishes it: the process lives on, and so do its replies.
        """
        await self.disconnect()
        await self.finish_tasks(_LONGEST_REPLY)
        await self.close()

    async def close(self) -> None:
        """Leave Discord."""
        await self.bot.close()
        await self._filters.close()
        self.connection.cancel()
        await asyncio.gather(self.connection, return_exceptions=True)


def make_bot(
    services: Services,
    settings: Settings,
    filters: ContentFilters,
    *,
    on_login: Callable[[int], Awaitable[None]],
    shard: Shard | None = None,
    may_sync: Callable[[], bool] = lambda: True,
    responsible: Callable[[int], bool] = lambda guild_id: True,
    identify: Callable[[int], Awaitable[None]] | None = None,
) -> tuple[GuildLlama, CommandContext]:
    """The Discord client with what its commands need, not logged in yet; see `ShardClient` and `GuildLlama`."""
    guild_settings, blocks = GuildSettingsCache(services.database, settings), MemberBlocks(services.database)
    member_settings = MemberSettingsCache(services.database)
    context = CommandContext(
        chat=services.chat,
        personas=services.personas,
        privacy=PrivacyService(services.database, _prompt_cache(services, settings)),
        guild_settings=guild_settings,
        member_settings=member_settings,
        bound_threads=BoundThreads(services.database),
        settings=settings,
        gate=PermissionGate(guild_settings, blocks),
        languages=Languages(guild_settings, member_settings.locale),
        blocks=blocks,
        filters=filters,
        responsible=responsible,
    )
    bot = GuildLlama(
        context,
        partial(make_cogs, database=services.database),
        on_login=on_login,
        shard=shard,
        may_sync=may_sync,
        identify=identify,
    )
    return bot, context


def _prompt_cache(services: Services, settings: Settings) -> PromptCache:
    keeps_files = settings.engine_url is None and settings.kv_dir is not None
    pseudonyms = Pseudonyms(settings, lambda: services.database.application_id)
    return PromptCache(services.models, pseudonyms, keeps_files=keeps_files)
