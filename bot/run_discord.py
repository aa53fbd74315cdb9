"""Runs the bot on Discord until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import structlog

from bot.chat.service import ChatService
from bot.cogs.all_cogs import make_cogs
from bot.discord_app.client import GuildLlama
from bot.discord_app.connection import bot_token, set_endpoints, stay_connected
from bot.discord_app.context import CommandContext
from bot.discord_app.languages import Languages
from bot.discord_app.permissions.gate import PermissionGate
from bot.engine_client.engine import Engine
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
from bot.storage import translate_database_errors
from models.database import Database
from models.queries import application as queries

log = structlog.get_logger(__name__)

_DELIVERY_TIMEOUT = 10.0  # seconds for the last edits, once no reply is being generated


class Services(Protocol):
    """The services that the Discord front end needs."""

    @property
    def chat(self) -> ChatService:
        """Conversations."""

    @property
    def personas(self) -> PersonaService:
        """Personas of guilds and members."""

    @property
    def engine(self) -> Engine:
        """The model."""

    @property
    def database(self) -> Database:
        """The database of all."""


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


def _prompt_cache(services: Services, settings: Settings) -> PromptCache:
    keeps_files = settings.engine_url is None and settings.kv_dir is not None
    pseudonyms = Pseudonyms(settings, lambda: services.database.application_id)
    return PromptCache(services.engine, pseudonyms, keeps_files=keeps_files)


def make_bot(
    services: Services, settings: Settings, filters: ContentFilters, on_login: Callable[[int], Awaitable[None]]
) -> tuple[GuildLlama, CommandContext]:
    """The Discord client with what its commands need, not logged in yet."""
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
    )
    return GuildLlama(context, partial(make_cogs, database=services.database), on_login=on_login), context


async def run_discord(services: Services, settings: Settings, on_login: Callable[[], Awaitable[None]]) -> None:
    """Run the Discord client until cancelled; then refuse new interactions, wait for running replies, and stop.

    `on_login` is called once the application is known. Raises ConfigError if the token is missing or refused.
    """
    token = bot_token(settings)
    set_endpoints(settings)
    filters = ContentFilters(settings)
    bot, context = make_bot(services, settings, filters, partial(enter_database, services.database, on_login))
    # A task of its own: it must read the gateway until the very end, also while this one is being cancelled.
    connection = asyncio.create_task(stay_connected(bot, token, bot.guard), name="discord")
    try:
        await asyncio.shield(connection)
    except asyncio.CancelledError:
        log.info("stopping", grace_s=settings.shutdown_grace)
        context.gate.closed = True
        await services.chat.close(settings.shutdown_grace)
        await bot.finish_tasks(_DELIVERY_TIMEOUT)
        raise
    finally:
        await bot.close()
        await filters.close()
        connection.cancel()
        await asyncio.gather(connection, return_exceptions=True)
