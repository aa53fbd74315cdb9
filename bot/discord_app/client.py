"""The Discord front-end: one client, every interaction through one door, every error through one mapping.

Knows discord.py and the use cases. What the commands say and do is in `bot.cogs`; how replies are shown, in
`bot.discord_app.streamed_reply` and `bot.discord_app.delivery`.
The bot asks for no privileged intent: it reads what people say to it by commands only.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import discord
import structlog
import yarl
from discord import app_commands
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bot.chat.service import ChatService
from bot.cogs import chat, persona, privacy
from bot.cogs.chat import chat_command, regenerate_command
from bot.cogs.config import config_commands
from bot.cogs.help import help_command
from bot.cogs.history import HistoryCommands, reset_command
from bot.cogs.persona import guild_persona, own_persona
from bot.cogs.privacy import PrivacyCommands
from bot.discord_app.command_sync import sync_commands
from bot.discord_app.context import CommandContext, Handler, Interaction
from bot.discord_app.delivery import FAILURES, describe, send_error
from bot.discord_app.guild_events import GuildEvents
from bot.discord_app.permissions import Action, PermissionGate
from bot.errors import BotError, ConfigError, Duplicate
from bot.guilds.personas import PersonaService
from bot.guilds.privacy import PrivacyService
from bot.guilds.settings_cache import GuildSettingsCache
from bot.settings import Settings
from models.database import Database

log = structlog.get_logger(__name__)

_SYNC_PATIENCE = 10.0
_DELIVERY_PATIENCE = 10.0
_TOKEN = "GUILDLLAMA_DISCORD_TOKEN"  # noqa: S105 - the name of the setting
_NEW_TOKEN = "Copy it anew from the Bot page of your application at https://discord.com/developers/applications."  # noqa: S105
_REFUSALS = {
    4004: "was refused by Discord's gateway",
    4011: "belongs to a bot in too many guilds for one connection",
    4014: "belongs to an application that may not even see its guilds",
}


class Services(Protocol):
    """What the front-end needs of the rest of the bot."""

    @property
    def chat(self) -> ChatService: ...

    @property
    def personas(self) -> PersonaService: ...

    @property
    def database(self) -> Database: ...


async def run_discord(services: Services, settings: Settings) -> None:
    """Be on Discord until cancelled; then refuse what is new, let the running replies end for a while, and leave.

    Raises ConfigError when Discord will never let us in as things are.
    """
    if settings.discord_token is None or not settings.discord_token.get_secret_value().strip():
        raise ConfigError(_TOKEN, "is not set", _NEW_TOKEN)
    _point_at(settings)
    privacy, guilds = PrivacyService(services.database), GuildSettingsCache(services.database, settings)
    parts = CommandContext(services.chat, services.personas, privacy, guilds, settings)
    client = GuildLlama(parts, GuildEvents(services.database))
    # A task of its own, since the gateway must be read until the very end.
    serving = asyncio.create_task(client.serve(settings.discord_token.get_secret_value()), name="discord")
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        log.info("stopping", grace_s=settings.shutdown_grace)
        client.gate.closed = True
        await services.chat.close(settings.shutdown_grace)
        await client.deliveries(_DELIVERY_PATIENCE)
        raise
    finally:
        await client.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def _point_at(settings: Settings) -> None:
    """Another Discord than the real one: for tests and for proxies. The only place that touches these two."""
    if settings.discord_api_base is not None:
        Route.BASE = settings.discord_api_base.rstrip("/")
    if settings.discord_gateway_url is not None:
        DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(settings.discord_gateway_url)


class Tree(app_commands.CommandTree["GuildLlama"]):
    """Commands, behind the gate."""

    async def interaction_check(self, interaction: discord.Interaction[GuildLlama]) -> bool:
        return await self.client.admit(interaction, _field(interaction, "name"))

    async def on_error(self, interaction: discord.Interaction[GuildLlama], error: app_commands.AppCommandError) -> None:
        await self.client.report(interaction, error)


class GuildLlama(discord.Client):
    def __init__(self, parts: CommandContext, upkeep: GuildEvents) -> None:
        discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # we do not speak
        super().__init__(
            intents=discord.Intents(guilds=True),
            allowed_mentions=discord.AllowedMentions.none(),
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
            max_messages=None,
        )
        parsers = self._connection.parsers
        parsers.update({event: _survived(event, parse) for event, parse in parsers.items() if event != "READY"})
        self.gate = PermissionGate(parts.guilds)
        self._upkeep = upkeep
        self.tree = Tree(self)
        for command in (
            chat_command(parts),
            regenerate_command(parts),
            reset_command(parts),
            HistoryCommands(parts),
            guild_persona(parts),
            own_persona(parts),
            config_commands(parts),
            PrivacyCommands(parts),
            help_command(),
        ):
            self.tree.add_command(command)
        self._routes: dict[str, Handler] = {
            "stop": lambda interaction, argument: chat.stop(parts, interaction, argument),
            "persona": lambda interaction, _: persona.submitted(parts, interaction, "guild"),
            "me": lambda interaction, _: persona.submitted(parts, interaction, "member"),
            "privacy": lambda interaction, argument: privacy.confirmed(parts, interaction, argument),
        }
        self._tasks: set[asyncio.Task[Any]] = set()
        self._apologising: asyncio.Task[None] | None = None
        self._left: set[int] = set()

    async def serve(self, token: str) -> None:
        """Log in and stay on the gateway until `close`."""
        await self._log_in(token)
        while not self.is_closed():
            try:
                await self.connect()
            except (discord.PrivilegedIntentsRequired, discord.ConnectionClosed) as refused:
                code = refused.code if isinstance(refused, discord.ConnectionClosed) else 4014
                why = _REFUSALS.get(code, f"cannot be used: Discord's gateway closed with code {code}")
                raise ConfigError(_TOKEN, why, _NEW_TOKEN) from None
            except Exception:
                log.exception("the gateway connection failed; trying again")
                await asyncio.sleep(5)

    async def _log_in(self, token: str) -> None:
        """Log in, however long Discord is away."""
        for seconds in itertools.chain((1, 2, 5, 10, 30), itertools.repeat(60)):
            try:
                return await self.login(token)
            except discord.LoginFailure:
                raise ConfigError(_TOKEN, "was refused by Discord", _NEW_TOKEN) from None
            except FAILURES as error:
                log.warning("Discord cannot be reached", error=describe(error), next_try_in_s=seconds)
                await self.http.close()
                self.http.connector = discord.utils.MISSING  # closed with the session; the next login makes another
                await asyncio.sleep(seconds)

    async def setup_hook(self) -> None:
        syncing = asyncio.create_task(self._sync(), name="sync-commands")
        self._keep(syncing)
        self._apologising = asyncio.create_task(self._upkeep.edit_interrupted_replies(self), name="cut-off-replies")
        await asyncio.wait((syncing,), timeout=_SYNC_PATIENCE)  # a slow one goes on while people talk already

    async def close(self) -> None:
        if self._apologising is not None:
            self._apologising.cancel()
        await super().close()

    async def on_ready(self) -> None:
        log.info("on Discord", guilds=len(self.guilds))
        await self._upkeep.guilds_present({guild.id for guild in self.guilds})

    async def on_guild_join(self, guild: discord.Guild) -> None:
        self._left.discard(guild.id)
        await self._upkeep.guild_joined(guild.id)

    async def on_guild_available(self, guild: discord.Guild) -> None:
        if guild.id in self._left:  # it came back, though Discord speaks of an outage
            await self.on_guild_join(guild)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        self._left.add(guild.id)
        await self._upkeep.guild_removed(guild.id)

    async def _sync(self) -> None:
        try:
            await sync_commands(self, self.tree)
        except (*FAILURES, app_commands.CommandSyncFailure) as error:
            log.error("commands could not be registered; the next start tries again", error=describe(error))

    async def deliveries(self, patience: float) -> None:
        """Wait for what is being said at this moment."""
        tasks = self._tasks - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=patience)

    # ── every interaction ────────────────────────────────────────────────────────────────────────────────────────

    async def admit(self, interaction: Interaction, word: str) -> bool:
        """Whether to serve this interaction: once, for whom it is meant, while we are open."""
        if self.gate.is_repeat(interaction):
            log.info("a repeated interaction was ignored", interaction=interaction.id)
            return False
        if (task := asyncio.current_task()) is not None:
            self._keep(task)
        try:
            self.gate.check(interaction, Action(word))
        except ValueError:
            return True  # no command of ours: CommandNotFound says so
        except BotError as refusal:
            await self.report(interaction, refusal)
            return False
        return True

    async def on_interaction(self, interaction: Interaction) -> None:
        """Buttons and forms, by their custom ids: they work after a restart as they did before it."""
        kinds = (discord.InteractionType.component, discord.InteractionType.modal_submit)
        if interaction.type not in kinds:
            return
        word, _, argument = _field(interaction, "custom_id").partition(":")
        if not await self.admit(interaction, word):
            return
        try:
            handler = self._routes.get(word)
            if handler is None:
                raise BotError("This comes from an older version of me. Please use the command again.")
            await handler(interaction, argument)
        except Exception as error:
            await self.report(interaction, error)

    async def report(self, interaction: Interaction, error: Exception) -> None:
        """The one mapping from errors to what a person reads. Details go to the log, under the same error id."""
        if isinstance(error, app_commands.CommandInvokeError):
            error = error.original
        if isinstance(error, Duplicate):
            log.info("another process answers this interaction", interaction=interaction.id)
            return
        shown = explain(error)
        about = {"error_id": shown.error_id, "interaction": interaction.id, "guild": interaction.guild_id}
        if isinstance(error, BotError | app_commands.AppCommandError):
            log.info("a request was refused", error=type(error).__name__, reason=str(error), **about)
        elif isinstance(error, FAILURES):
            log.warning("Discord did not take our answer", error=describe(error), **about)
        else:
            log.error("a request failed", exc_info=error, **about)
        await send_error(interaction, f"{shown.user_message} (error {shown.error_id})")

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        log.exception("an event handler failed", handler=event_method)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _survived(event: str, parse: Callable[[Any], None]) -> Callable[[Any], None]:
    """One event that discord.py cannot read must not end the connection to all guilds, and the session with it."""

    def read(data: Any) -> None:
        try:
            parse(data)
        except Exception:
            log.exception("an event could not be read and was passed over", gateway_event=event)

    return read


def _field(interaction: discord.Interaction[Any], name: str) -> str:
    """A text in what Discord says about an interaction; empty when it says nothing of the kind."""
    data: object = interaction.data
    return str(data.get(name, "")) if isinstance(data, Mapping) else ""


def explain(error: Exception) -> BotError:
    """Any error as one friendly line with an id."""
    if isinstance(error, BotError):
        return error
    if isinstance(error, app_commands.CommandNotFound | app_commands.CommandSignatureMismatch):
        return BotError("My commands have changed. Please reload Discord (Ctrl+R) and try again.")
    if isinstance(error, app_commands.TransformerError):
        return BotError("I do not understand one of the options. Please check them and try again.")
    if isinstance(error, app_commands.CheckFailure):
        return BotError("You may not do this here.")
    return BotError("Something went wrong on my side. Please try again.")
