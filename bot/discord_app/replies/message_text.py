"""What a member's message says to the bot: is it addressed, and which text remains. Pure but for discord.py's messages.

Without the message-content intent Discord sends the text of direct messages, of messages that mention the bot, and of
replies to the bot's messages that ping it. Of every other message the text is empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import discord

from bot.chat.prompts.speakers import clean_name

_CODE = re.compile(r"(`{3,})[\s\S]*?(?:\1|$)|(`+)(?:(?!\2)[\s\S])+?\2(?!`)")
_MENTION = re.compile(r"<(?P<kind>@[!&]?|#)(?P<id>\d{15,20})>")


def without_code(text: str) -> str:
    """The text with its code blocks and inline code blanked: nothing in there addresses anyone."""
    return _CODE.sub(lambda found: " " * len(found[0]), text)


def mentions(text: str, user_id: int) -> bool:
    """Whether the text mentions this user outside of code."""
    return re.search(rf"<@!?{user_id}>", without_code(text)) is not None


def readable_text(text: str, *, bot_id: int, names: Mapping[int, str]) -> str:
    """The text without mentions of the bot, and with names in place of other ids. Code stays as it is."""
    outside = without_code(text)
    pieces: list[str] = []
    end = 0
    for found in _MENTION.finditer(outside):
        pieces.append(text[end : found.start()])
        end = found.end()
        target = int(found["id"])
        if target != bot_id:
            sign = "#" if found["kind"] == "#" else "@"
            pieces.append(f"{sign}{names.get(target, 'unknown')}")
    pieces.append(text[end:])
    return re.sub(r"[ \t]{2,}", " ", "".join(pieces)).strip() if end else text.strip()


def names_in(message: discord.Message) -> dict[int, str]:
    """The names of everyone and everything that a message mentions, cleaned, by id."""
    names = {user.id: clean_name(user.display_name) for user in message.mentions}
    names |= {role.id: clean_name(role.name) for role in message.role_mentions}
    names |= {
        channel.id: clean_name(channel.name)
        for channel in message.channel_mentions
        if isinstance(channel, discord.abc.GuildChannel | discord.Thread)
    }
    return names


def replied_message(message: discord.Message) -> discord.Message | None:
    """The message that this one replies to; None if there is none, or if it was deleted."""
    reference = message.reference
    if message.type is not discord.MessageType.reply or reference is None:
        return None
    return reference.resolved if isinstance(reference.resolved, discord.Message) else None


def replied_message_id(message: discord.Message) -> int | None:
    """The id of the message that this one replies to, also if that was deleted."""
    if message.type is not discord.MessageType.reply or message.reference is None:
        return None
    return message.reference.message_id
