"""/thread start and the button Thread under a reply: a thread for a conversation, which all who write in it share.

The bot never starts one by itself. What makes a message in it count is in `bot.cogs.messages`.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Mapping

import discord
import structlog
from discord import app_commands
from discord.ext import commands

from bot.discord_app.caller import Caller, caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import DISCORD_ERRORS, defer, describe_error
from bot.discord_app.error_messages import log_database_errors
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise
from bot.discord_app.permissions.command_visibility import BY_GUILDS, IN_GUILDS
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.turn_actions import TurnActions, TurnIsGone, number_in
from bot.discord_app.rest.forbidden_channels import ChannelForbidden
from bot.discord_app.rest.thread_api import MAX_THREAD_NAME, ThreadApi, check_permissions
from bot.errors import BotError, DatabaseUnavailable
from bot.i18n.language import N_, use_language
from bot.i18n.language import gettext as _
from models.types import DialogKey, TurnInfo

log = structlog.get_logger(__name__)

_MAX_NAME_FROM_QUESTION = 60
_LOOKS, _LOOK_AGAIN = 20, 0.1  # seconds between two looks
_EVERY_MESSAGE = N_(
    "-# Just write here, I answer every message. All who write in this thread share one conversation with me."
)
_MENTIONS_ONLY = N_(
    "-# To talk to me here, mention me (<@{bot_id}>) or reply to one of my messages. "
    "All who write in this thread share one conversation with me."
)


class Threads(FeatureCog):
    """Starts threads, and forgets those that are deleted."""

    thread = app_commands.Group(
        name="thread",
        description="A thread to talk to me in, together with others",
        guild_only=True,
        allowed_contexts=IN_GUILDS,
        allowed_installs=BY_GUILDS,
    )

    def __init__(self, bot: commands.Bot, context: CommandContext, conversations: Conversations) -> None:
        super().__init__(context)
        self._bot = bot
        self._conversations = conversations
        self._actions = TurnActions(conversations)
        self._api = ThreadApi(bot.http)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The button under a reply."""
        return {Action.THREAD.value: self._start_at_reply}

    @thread.command(
        name="start", description="Start a thread in this channel, for a conversation that others can join."
    )
    @app_commands.describe(name="Its name (default: with your name in it)")
    async def start(
        self, interaction: Interaction, name: app_commands.Range[str, 1, MAX_THREAD_NAME] | None = None
    ) -> None:
        """/thread start."""
        if not await defer(interaction, ephemeral=True):
            return
        caller = await self._authorised(interaction, at_message=False)
        if caller.in_thread:
            raise BotError(_("We are in a thread already. Use this command in the channel that it belongs to."))
        channel = interaction.channel
        if not isinstance(channel, discord.TextChannel):
            raise BotError(_("No thread can be started here. Use this command in a text channel."))
        thread_id = await self._api.start(
            channel.id,
            thread_name(name or "") or await self._default_name(caller),
            in_news=channel.is_news(),
        )
        await self._bind(caller, thread_id)
        await self.context.respond(interaction, _("Let us go on in {thread}.").format(thread=f"<#{thread_id}>"))

    async def _start_at_reply(self, interaction: Interaction, argument: str) -> None:
        """Start a thread under the reply whose button was pressed. `argument`: the id of its turn."""
        if not await defer(interaction, ephemeral=True):
            return
        caller = await self._authorised(interaction, at_message=True)
        turn = await self._actions.find(caller, number_in(argument), in_open_dialog=False)
        message_id = 0 if interaction.message is None else interaction.message.id
        if not await self._shows(message_id, turn):
            raise TurnIsGone()
        async with self._conversations.changes.hold(turn.turn_id):
            name = thread_name(turn.user_text, _MAX_NAME_FROM_QUESTION) or await self._default_name(caller)
            thread_id = await self._api.start_at(caller.channel_id, message_id, name)
            await self._bind(caller, thread_id)
        await self.context.respond(interaction, _("Let us go on in {thread}.").format(thread=f"<#{thread_id}>"))

    async def _shows(self, message_id: int, turn: TurnInfo) -> bool:
        """Whether the reply of this turn is shown in this message. Its last edit is seen before it is recorded."""
        for _attempt in range(_LOOKS):
            delivery = await self.context.chat.turns.delivery(turn)
            if delivery is not None and message_id in [each.message_id for each in delivery.messages]:
                return True
            if delivery is None or delivery.state == "done":
                return False
            await asyncio.sleep(_LOOK_AGAIN)
        return False

    async def _authorised(self, interaction: Interaction, *, at_message: bool) -> Caller:
        """The caller, checked by rules that the gate may not have known, and the bot's own permissions."""
        caller = caller_of(interaction)
        authorise(caller, Action.THREAD, await self.context.guild_settings.get(caller.guild_id))
        check_permissions(interaction.app_permissions, at_message=at_message)
        return caller

    async def _default_name(self, caller: Caller) -> str:
        with use_language(await self.context.languages.of_guild(caller.guild_id)):
            return thread_name(_("Chat with {name}").format(name=caller.name))

    async def _bind(self, caller: Caller, thread_id: int) -> None:
        """Record the thread, and say in it how to talk there."""
        key = DialogKey(caller.guild_id, caller.user_id, thread_id)
        try:
            is_new = await self.context.bound_threads.bind(key, parent_id=caller.channel_id)
        except DatabaseUnavailable as error:
            text = _(
                "I started {thread}, but cannot note down that it is for us. Mention me in there to talk to me."
            ).format(thread=f"<#{thread_id}>")
            raise BotError(text, reason=error.reason) from None
        if not is_new:
            return
        log.info("a thread was started", guild=caller.guild_id, thread=thread_id)
        me = self._bot.user
        hint = _EVERY_MESSAGE if self.context.settings.message_content else _MENTIONS_ONLY
        with use_language(await self.context.languages.of_guild(caller.guild_id)):
            text = _(hint).format(bot_id=me.id if me else 0)
        try:
            await self._conversations.api.send(thread_id, text, nonce=f"{thread_id}.hint")
        except (ChannelForbidden, *DISCORD_ERRORS) as error:
            log.warning("no hint could be shown in a thread", thread=thread_id, error=describe_error(error))

    @commands.Cog.listener()
    async def on_raw_thread_delete(self, event: discord.RawThreadDeleteEvent) -> None:
        """Forget a thread that was deleted."""
        threads = self.context.bound_threads
        with log_database_errors("forget a thread", guild=event.guild_id):
            if await threads.get(event.guild_id, event.thread_id) and await self._is_gone(event.thread_id):
                await threads.unbind(event.guild_id, event.thread_id)

    @commands.Cog.listener()
    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        """Forget the threads of a channel that was deleted, also those that discord.py does not know."""
        with log_database_errors("forget threads", guild=channel.guild.id):
            if await self._is_gone(channel.id):
                await self.context.bound_threads.unbind_channel(channel.guild.id, channel.id)

    async def _is_gone(self, channel_id: int) -> bool:
        """Whether a channel or thread exists no more: one that is hidden from the bot is reported as deleted, too."""
        try:
            return await self._api.is_gone(channel_id)
        except DISCORD_ERRORS as error:
            log.warning("could not ask whether a channel is gone", channel=channel_id, error=describe_error(error))
            return False


def thread_name(text: str, limit: int = MAX_THREAD_NAME) -> str:
    """A text as the name of a thread: its visible characters in one line; "" if there are none."""
    visible = "".join(
        each if unicodedata.category(each)[0] != "C" else " " if each.isspace() else "" for each in text[: 10 * limit]
    )
    line = " ".join(visible.split())
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    return line if any(unicodedata.category(each)[0] in "LNPS" for each in line) else ""
