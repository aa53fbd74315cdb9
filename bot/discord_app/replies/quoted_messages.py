"""Messages that members are about to ask about: kept in memory from the menu until the form with the question is sent.

Discord sends the text of such a message once, when the menu is used. It is no row of the database: nobody has asked
anything yet. It is bounded in number and time, and gone after a restart; the member then uses the menu again. Knows
discord.py's messages, and nothing of questions.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import discord

from bot.attachments.types import OfferedFile
from bot.chat.prompts.speakers import clean_name
from bot.discord_app.replies.message_text import names_in, readable_text
from bot.discord_app.replies.webhooks.own_messages import is_own_message
from bot.text import clean_text

KEPT_FOR = 1800.0
"""Seconds in which the question must be written."""
MAX_KEPT = 1000
MAX_PER_MEMBER = 5


@dataclass(frozen=True, slots=True)
class QuotedMessage:
    """What can be asked about: a message's text and files, and who wrote it (`author_id` is None if the bot did)."""

    message_id: int
    channel_id: int
    author: str = field(repr=False)
    author_id: int | None
    text: str = field(repr=False)
    files: tuple[OfferedFile, ...] = ()


def quoted(message: discord.Message, *, bot_id: int, application_id: int | None = None) -> QuotedMessage:
    """A message with names in place of ids. What was forwarded to the channel counts as its text."""
    own = is_own_message(message, bot_id=bot_id, application_id=application_id)
    parts = [readable_text(message.content, bot_id=0, names=names_in(message))]
    attachments = list(message.attachments)
    for snapshot in message.message_snapshots:
        parts.append(readable_text(snapshot.content, bot_id=0, names={}))
        attachments += snapshot.attachments
    return QuotedMessage(
        message_id=message.id,
        channel_id=message.channel.id,
        author=clean_name(message.author.display_name),
        author_id=None if own else message.author.id,
        text=clean_text("\n\n".join(filter(None, parts))),
        files=tuple(
            OfferedFile(each.filename, each.content_type, each.size, each.url, is_voice=each.is_voice_message())
            for each in attachments
        ),
    )


class QuotedMessages:
    """The messages of open forms, each kept for the one member who used the menu on it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[int, int], tuple[float, QuotedMessage]] = OrderedDict()

    def keep(self, user_id: int, message: QuotedMessage) -> None:
        """Keep a message for a member. Their own oldest go first, so that no one can drive out those of others."""
        self._forget_old()
        self._kept.pop((user_id, message.message_id), None)
        own = [key for key in self._kept if key[0] == user_id]
        for key in own[: max(0, len(own) - MAX_PER_MEMBER + 1)]:
            del self._kept[key]
        self._kept[user_id, message.message_id] = (self._clock(), message)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def find(self, user_id: int, message_id: int, channel_id: int) -> QuotedMessage | None:
        """The message that this member used the menu on in this channel, if it is still kept."""
        self._forget_old()
        _, message = self._kept.get((user_id, message_id), (0.0, None))
        return message if message is not None and message.channel_id == channel_id else None

    def forget(self, message_id: int) -> None:
        """Drop a message that was deleted meanwhile: it is not to be asked about any more."""
        for key in [key for key in self._kept if key[1] == message_id]:
            del self._kept[key]

    def __len__(self) -> int:
        return len(self._kept)

    def _forget_old(self) -> None:
        before = self._clock() - KEPT_FOR
        while self._kept and next(iter(self._kept.values()))[0] < before:
            self._kept.popitem(last=False)
