"""Messages to the bot: a mention, a reply to one of its messages, a direct message, a word in a thread of its own.

An edit of the question while its reply is being written restarts the reply once; a delete stops it. The asker's
reactions do what the buttons do. Messages of bots and webhooks are ignored, so that two bots never talk to each other,
nor the bot to its own personas.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import discord
import structlog
from discord.ext import commands

from bot.discord_app.caller import Caller, author_of, is_age_restricted
from bot.discord_app.context import CommandContext
from bot.discord_app.cooldowns import Cooldowns
from bot.discord_app.delivery import DISCORD_ERRORS, describe_error
from bot.discord_app.error_messages import explain, shown_text
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import NotAllowed
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.message_text import (
    mentions,
    names_in,
    readable_text,
    replied_message,
    replied_message_id,
)
from bot.discord_app.replies.offered_files import offered_files
from bot.discord_app.replies.question import Question
from bot.discord_app.replies.refusal_pace import RefusalPace
from bot.discord_app.replies.sinks.sink import ReplySink
from bot.discord_app.replies.typing import TypingIndicator
from bot.discord_app.replies.webhooks.own_messages import is_by_own_webhook, is_own_message
from bot.discord_app.rest.forbidden_channels import ChannelForbidden
from bot.errors import BotError, Busy, DatabaseUnavailable, Duplicate, Hint, LimitReached, MemberIsBlocked
from bot.i18n.language import N_, use_language
from bot.i18n.language import gettext as _
from bot.log import reason_of
from models.types import DIRECT_MESSAGES, Place

log = structlog.get_logger(__name__)

_EMPTY = N_("Yes? Write what you want to say next to my name, or reply to one of my messages.")
_MENTION_ME = N_(
    "-# I cannot read your message: Discord shows me replies to a persona only if they mention me. Please write it "
    "again and mention me in it."
)
_HINT_INTERVAL = 3600.0
"""Seconds between two such hints in a channel, and between two answers to a member who is blocked."""
_TYPES = (discord.MessageType.default, discord.MessageType.reply)


class Messages(commands.Cog):
    """Answers messages in channels, threads and direct messages."""

    def __init__(self, bot: commands.Bot, context: CommandContext, conversations: Conversations) -> None:
        self._bot = bot
        self._context = context
        self._conversations = conversations
        self._typing = TypingIndicator(conversations.api)
        self._hints: Cooldowns[int] = Cooldowns(_HINT_INTERVAL)
        self._told_blocked: Cooldowns[tuple[int, int]] = Cooldowns(_HINT_INTERVAL)
        self._refusals = RefusalPace()

    @commands.Cog.listener()
    async def on_message(self, message: discord.Message) -> None:
        """Answer a message that is addressed to the bot."""
        if message.author.bot or message.webhook_id is not None or message.type not in _TYPES:
            return
        if not self._is_addressed(message) and not await self._is_in_bound_thread(message):
            await self._hint_at_mentions(message)
            return
        if not self._context.gate.is_repeat(message.id):
            await self._answer(message, self._text(message))

    @commands.Cog.listener()
    async def on_raw_message_edit(self, event: discord.RawMessageUpdateEvent) -> None:
        """Begin the reply anew if the question changed while it is being written, once."""
        running = self._conversations.running.get(event.message_id)
        if running is None or running.task is None or running.is_repeat:
            return
        message = event.message
        if message.author.id != running.asker_id or message.edited_at is None:
            return  # Discord itself added a preview of a link
        running.keep_messages = True
        await self._cancel(running.task)
        await self._answer(message, self._text(message), earlier=running.sink, is_repeat=True)

    @commands.Cog.listener()
    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        """Stop the reply to a question that was deleted, and delete what was shown of it."""
        running = self._conversations.running.get(event.message_id)
        if running is not None and running.task is not None:
            await self._cancel(running.task)
            await running.sink.delete_all()

    async def _cancel(self, task: asyncio.Task[object]) -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])

    def _is_addressed(self, message: discord.Message) -> bool:
        if message.guild is None:
            return True
        me = self._bot.user
        if me is None:
            return False
        if any(user.id == me.id for user in message.mentions) and mentions(message.content, me.id):
            return True
        return self._replied_to(message) is not None and bool(message.content or message.attachments)

    def _replied_to(self, message: discord.Message) -> discord.Message | None:
        """The bot's own message that this one replies to, or a persona's; None if there is none."""
        replied, me = replied_message(message), self._bot.user
        if replied is None or me is None:
            return None
        own = is_own_message(replied, bot_id=me.id, application_id=self._bot.application_id)
        return replied if own else None

    async def _hint_at_mentions(self, message: discord.Message) -> None:
        """Say, now and then, that replies to a persona must mention the bot, where Discord does not show their text.

        A webhook's message has no account that a reply could mention.
        """
        if self._context.settings.message_content or message.content or message.stickers or message.guild is None:
            return
        replied = self._replied_to(message)
        if replied is None or not is_by_own_webhook(replied, application_id=self._bot.application_id):
            return
        if not self._hints.is_due(message.channel.id):
            return
        try:
            await self._context.gate.admit(await self._caller(message), Action.CHAT)
        except BotError as refused:
            log.info("a reply to a persona was not read", question=message.id, reason=refused.reason)
            return
        with use_language(await self._context.languages.of_guild(message.guild.id)):
            await self._send(message, _(_MENTION_ME), nonce=f"{message.id}.h")

    async def _is_in_bound_thread(self, message: discord.Message) -> bool:
        """Whether this is a thread in which every message counts, of those whose content Discord sends."""
        if message.guild is None or not (message.content or message.attachments) or not _may_be_thread(message):
            return False
        try:
            return await self._context.bound_threads.get(message.guild.id, message.channel.id) is not None
        except DatabaseUnavailable as error:
            # Whether it was meant for the bot is not known, so nobody is told that it cannot be answered.
            log.warning("a message in a thread was not judged", message=message.id, reason=error.reason)
            return False

    async def _caller(self, message: discord.Message) -> Caller:
        """Who wrote the message. The channel of a thread that discord.py does not know is taken from its binding."""
        caller = author_of(message)
        if message.guild is None or caller.in_thread or not _may_be_thread(message):
            return caller
        binding = await self._context.bound_threads.get(message.guild.id, message.channel.id)
        if binding is None:
            return caller
        restricted = is_age_restricted(message.guild.get_channel(binding.parent_id))
        return replace(caller, parent_id=binding.parent_id, age_restricted=restricted)

    def _text(self, message: discord.Message) -> str:
        me = self._bot.user
        return readable_text(message.content, bot_id=me.id if me else 0, names=names_in(message))

    async def _answer(
        self,
        message: discord.Message,
        text: str,
        *,
        earlier: ReplySink | None = None,
        is_repeat: bool = False,
    ) -> None:
        """`earlier`: shows the beginning of a reply that was given up, whose messages are used again."""
        self._context.track(asyncio.current_task())
        guild_id = message.guild.id if message.guild else DIRECT_MESSAGES
        with use_language(await self._context.languages.of_channel(guild_id, message.author.id)):
            await self._answer_or_report(message, text, earlier=earlier, is_repeat=is_repeat)

    async def _answer_or_report(
        self, message: discord.Message, text: str, *, earlier: ReplySink | None, is_repeat: bool
    ) -> None:
        try:
            caller = await self._caller(message)
            await self._context.gate.admit(caller, Action.CHAT)
            offers = offered_files(message.attachments)
            if not text and not offers:
                raise Hint(_(_EMPTY))
            with self._typing.shown_in(message.channel.id):
                place = place_of(message, caller, earlier)
                reply_to = replied_message_id(message)
                question = Question(caller, place, text, offers=offers, replied_to=reply_to, is_repeat=is_repeat)
                await self._conversations.answer(question)
        except Duplicate:
            log.info("another process answers this message", question=message.id)
        except Exception as error:
            await self._report(message, error)

    async def _report(self, message: discord.Message, error: Exception) -> None:
        """Answer with what went wrong; in a guild, a member who may not ask gets no answer that others would see."""
        shown = explain(error)
        fields = {"error_id": shown.error_id, "question": message.id, "guild": message.guild.id if message.guild else 0}
        if isinstance(error, BotError):
            log.info("a message was refused", error=type(error).__name__, reason=reason_of(error), **fields)
        else:
            log.error("a message failed", exc_info=error, **fields)
        if isinstance(error, NotAllowed) and message.guild is not None:
            return
        if isinstance(error, LimitReached | Busy) and not self._refusals.may_say(error, message):
            return
        text = shown_text(shown)
        if isinstance(error, MemberIsBlocked):  # everyone in the channel reads the answer to a message
            if not self._told_blocked.is_due((message.guild.id if message.guild else 0, message.author.id)):
                return
            text = error.public_message
        await self._send(message, text, nonce=f"{message.id}.e")

    async def _send(self, message: discord.Message, text: str, *, nonce: str) -> None:
        """Reply with a text that is no answer of the model."""
        try:
            await self._conversations.api.send(message.channel.id, text, nonce=nonce, reply_to=message.id)
        except ChannelForbidden:
            pass
        except DISCORD_ERRORS as refused:
            log.warning("an error could not be shown", question=message.id, error=describe_error(refused))


def _may_be_thread(message: discord.Message) -> bool:
    """Whether a message of a guild was written in a thread, or where discord.py does not know the channel."""
    return isinstance(message.channel, discord.Thread | discord.PartialMessageable)


def place_of(message: discord.Message, caller: Caller, earlier: ReplySink | None = None) -> Place:
    """A reply to a message, as the place of an answer. `earlier`: shows the beginning of another one."""
    return Place(
        guild_id=caller.guild_id or DIRECT_MESSAGES,
        channel_id=message.channel.id,
        asker_id=caller.user_id,
        nonce=message.id,
        question_id=message.id,
        message_ids=() if earlier is None else earlier.ordered_ids,
        webhook_id=None if earlier is None else earlier.place.webhook_id,
        webhook_name="" if earlier is None else earlier.place.webhook_name,
        asker_name=caller.name,
    )
