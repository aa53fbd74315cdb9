"""The bot on Discord: every interaction passes one gate, every error one mapping.

Knows discord.py. What the commands say and do is in `bot.cogs`; what a member reads of an error, in `error_messages`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import discord
import structlog
from discord import app_commands
from discord.ext import commands
from structlog.contextvars import bind_contextvars

from bot.discord_app.caller import caller_of
from bot.discord_app.connection import skip_unreadable_events
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import note_receipt
from bot.discord_app.error_messages import report_error
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action, action_word
from bot.discord_app.registration.command_sync import Json, payloads, sync_commands
from bot.discord_app.registration.command_texts import CommandTexts
from bot.discord_app.rest.request_guard import RequestGuard
from bot.discord_app.rest.request_metrics import trace_requests
from bot.discord_app.rest.turn_trace import trace_turns
from bot.errors import BotError
from bot.i18n.language import gettext as _
from bot.i18n.language import set_language, use_language
from bot.telemetry.gateway_sessions import GATEWAY_SESSIONS
from bot.telemetry.metrics import GATEWAY_EVENTS_TOTAL
from models.types import Shard

log = structlog.get_logger(__name__)

_SYNC_TIMEOUT = 10.0  # seconds that the start waits for the registration of commands


def _intents(*, message_content: bool) -> discord.Intents:
    """Without `message_content` none is privileged.

    Discord then sends the text of direct messages, and of messages that mention the bot or reply to it. That is all
    that is needed, but for threads in which every message counts.
    """
    return discord.Intents(guilds=True, messages=True, reactions=True, message_content=message_content)


# Where commands may be used, unless a command says otherwise: everywhere, also where only the user installed the bot.
# A guild that has not invited it is then like direct messages (see `Caller`): nothing of it is stored.
_CONTEXTS = app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True)
_INSTALLS = app_commands.AppInstallationType(guild=True, user=True)


class GatedTree(app_commands.CommandTree["GuildLlama"]):
    """The slash commands, behind the bot's gate and its error mapping, each in the language of who uses it."""

    def _from_interaction(self, interaction: discord.Interaction[GuildLlama]) -> None:
        with use_language(interaction.locale.value):  # the task that serves it takes the language over
            super()._from_interaction(interaction)

    async def interaction_check(self, interaction: discord.Interaction[GuildLlama]) -> bool:
        """Whether to serve this command."""
        return await self.client.admit(
            interaction, action_word(_text_field(interaction, "name"), _subcommand(interaction))
        )

    async def on_error(self, interaction: discord.Interaction[GuildLlama], error: app_commands.AppCommandError) -> None:
        """Report what a command raised."""
        await report_error(interaction, error)


class GuildLlama(commands.Bot):
    """A `commands.Bot` for the sake of its cogs: it has no prefix commands."""

    def __init__(
        self,
        context: CommandContext,
        make_cogs: Callable[[commands.Bot, CommandContext], Sequence[commands.Cog]],
        on_login: Callable[[int], Awaitable[None]],
        *,
        shard: Shard | None = None,
        may_sync: Callable[[], bool] = lambda: True,
        identify: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """`make_cogs` returns the cogs, in the order in which their commands are registered.

        `on_login` gets the application's id before anything else is done; what it raises ends the login. `shard`: of
        this connection, instead of the one that the settings name. `may_sync`:
        whether this client is the one that registers the commands. `identify` waits until a session of this shard may
        be opened, where several connections share Discord's limit.
        """
        self.guard = RequestGuard()
        trace_turns(self.guard.trace)
        trace_requests(self.guard.trace)
        discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # voice is not used
        super().__init__(
            command_prefix=commands.when_mentioned,  # required, never used; any other one would want message content
            help_command=None,
            tree_cls=GatedTree,
            allowed_contexts=_CONTEXTS,
            allowed_installs=_INSTALLS,
            intents=_intents(message_content=context.settings.message_content),
            allowed_mentions=discord.AllowedMentions.none(),
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
            max_messages=None,
            http_trace=self.guard.trace,
            shard_id=context.settings.shard_id if shard is None else shard.index,
            shard_count=context.settings.shard_count if shard is None else shard.count,
        )
        skip_unreadable_events(self)
        self.gate = context.gate
        self._context = context
        self._make_cogs = make_cogs
        self._on_login = on_login
        self._may_sync = may_sync
        self._identify = identify
        self.has_commands = False
        """Whether the cogs and their commands were added."""
        self._away_since: float | None = None
        self._component_handlers: dict[str, ComponentHandler] = {}

    async def setup_hook(self) -> None:
        """Add the cogs and register their commands. Runs after the login, before the gateway connection."""
        if self.application_id is not None:
            await self._on_login(self.application_id)
        self._context.languages.discords = self._locale_of
        await self.tree.set_translator(CommandTexts())
        for cog in self._make_cogs(self, self._context):
            await self.add_cog(cog)
            if isinstance(cog, FeatureCog):
                self._component_handlers.update(cog.component_handlers())
        self.has_commands = True
        if not self._may_sync():
            return
        syncing = asyncio.create_task(sync_commands(self, self.tree), name="sync-commands")
        self._context.track(syncing)
        await asyncio.wait((syncing,), timeout=_SYNC_TIMEOUT)  # a slow one goes on while members use the bot

    async def would_register(self) -> list[Json]:
        """The commands that a start registers, without logging in: adds no cog that has jobs."""
        await self.tree.set_translator(CommandTexts())
        for cog in self._make_cogs(self, self._context):
            if isinstance(cog, FeatureCog) or cog.get_app_commands():
                await self.add_cog(cog)
        return await payloads(self.tree)

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Wait for this connection's turn to open a session."""
        if self._identify is None:
            await super().before_identify_hook(shard_id, initial=initial)
        else:
            await self._identify(shard_id or 0)

    async def on_message(self, message: discord.Message, /) -> None:
        """Do nothing: discord.py would look for prefix commands here. Cogs listen to messages themselves."""

    async def finish_tasks(self, timeout: float) -> None:
        """Wait for the interactions that are being served, at most `timeout` seconds."""
        tasks = self._context.tasks - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    async def admit(self, interaction: Interaction, word: str) -> bool:
        """Whether to serve this interaction: once, if the member may, while the bot is open. Reports a refusal itself.

        `word` is the command's (see `action_word`), or the first one of the custom id.
        """
        if self.gate.is_repeat(interaction.id):
            log.info("a repeated interaction was ignored", interaction=interaction.id)
            return False
        note_receipt(interaction)
        self._context.track(asyncio.current_task())
        caller = caller_of(interaction)
        bind_contextvars(guild=caller.guild_id)  # of the task, which serves this interaction alone
        set_language(await self._context.languages.of_user(caller.guild_id, caller.user_id, interaction.locale.value))
        try:
            await self.gate.admit(caller, Action(word))
        except ValueError:
            return True  # not an action of this version: the look-up of its command or handler reports that
        except BotError as refusal:
            if interaction.type is discord.InteractionType.autocomplete:
                await interaction.response.autocomplete([])  # suggestions are all that it takes
            else:
                await report_error(interaction, refusal)
            return False
        return True

    async def on_interaction(self, interaction: Interaction) -> None:
        """Serve buttons and modals by their custom ids, so that those of an earlier run work too."""
        kinds = (discord.InteractionType.component, discord.InteractionType.modal_submit)
        if interaction.type not in kinds:
            return
        with use_language(interaction.locale.value):
            await self._serve(interaction)

    async def _serve(self, interaction: Interaction) -> None:
        word, _colon, argument = _text_field(interaction, "custom_id").partition(":")
        if not await self.admit(interaction, word):
            return
        try:
            handler = self._component_handlers.get(word)
            if handler is None:
                raise BotError(_("This comes from an older version of me. Please use the command again."))
            await handler(interaction, argument)
        except Exception as error:
            await report_error(interaction, error)

    def _locale_of(self, guild_id: int) -> str | None:
        """The locale that a guild gave Discord."""
        guild = self.get_guild(guild_id)
        return None if guild is None else guild.preferred_locale.value

    async def on_disconnect(self) -> None:
        """Note when the gateway was lost."""
        GATEWAY_SESSIONS.lost(self)
        if self._away_since is None:
            GATEWAY_EVENTS_TOTAL.labels("lost").inc()
            self._away_since = time.monotonic()

    async def on_resumed(self) -> None:
        """What happened meanwhile has been sent again."""
        self._came_back("resumed")

    async def on_ready(self) -> None:
        """Note a gap: after a new session, nothing is known of what was written meanwhile, nor is it asked for."""
        if self._away_since is not None:
            seconds = round(time.monotonic() - self._away_since)
            log.warning("the gateway session could not be resumed: messages of this time were missed", seconds=seconds)
        self._came_back("ready")

    def _came_back(self, event: str) -> None:
        self._away_since = None
        GATEWAY_SESSIONS.opened(self)
        GATEWAY_EVENTS_TOTAL.labels(event).inc()

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        """Log what an event handler raised."""
        log.exception("an event handler failed", handler=event_method)


def _text_field(interaction: discord.Interaction[Any], name: str) -> str:
    """A text in an interaction's data; "" if there is none of this name."""
    data: object = interaction.data
    return str(data.get(name, "")) if isinstance(data, Mapping) else ""


def _subcommand(interaction: discord.Interaction[Any]) -> str:
    """The second word of a command; "" if it has none."""
    data: object = interaction.data
    options = data.get("options") if isinstance(data, Mapping) else None
    first = options[0] if isinstance(options, list) and options else None
    return str(first.get("name", "")) if isinstance(first, Mapping) and first.get("type") == 1 else ""
