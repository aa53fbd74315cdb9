"""What stands above a reply: the question, of a public command, its files, and the name of who answers. Pure functions.

Whatever a member wrote, or called a file, is shown as typed and has no effect.
"""

from __future__ import annotations

import re

import discord

from bot.discord_app.rest.account_names import visible
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.types import Place, Speaker

MAX_CHARS = 240
MAX_LINES = 4
_ADDRESS = "-# \N{RIGHTWARDS ARROW WITH HOOK}\ufe0e "
_BRACKETS = re.compile(r"[\[\]()<>\\]")
_SLASHES = re.compile(r"/{2,}")
ANEW = N_("-# In place of my answer above:\n")
"""Stands above a reply that replaces one whose messages cannot all be changed any more."""


def heading(place: Place, text: str) -> str:
    """What stands above a reply here: the question, and a link to the message that it is about; "" if nothing does."""
    if not place.is_seen_by_others:
        return ""
    path = place.path or (f"{place.guild_id or '@me'}/{place.channel_id}" if place.channel_id else "")
    if not place.about_id or not path:
        return quoted_question(text)
    link = f"https://discord.com/channels/{path}/{place.about_id}"
    about = _("-# About [this message]({link})").format(link=link)
    return f"{quoted_question(text)}{about}\n"


def quoted_question(text: str) -> str:
    """The question as a block quote of at most MAX_LINES lines, its Markdown shown as typed, and a line break."""
    lines = text.strip().splitlines()
    shortened = "\n".join(lines[:MAX_LINES])
    cut = len(lines) > MAX_LINES or len(shortened) > MAX_CHARS
    shortened = shortened[:MAX_CHARS].rstrip() + (" …" if cut else "")
    escaped = discord.utils.escape_mentions(discord.utils.escape_markdown(shortened))
    return "".join(f"> {line}\n" for line in escaped.splitlines())


def small_lines(note: str) -> str:
    """Plain lines in small letters, their Markdown shown as typed, each with a line break."""
    escaped = discord.utils.escape_mentions(discord.utils.escape_markdown(note))
    return "".join(f"-# {line}\n" for line in escaped.splitlines())


def address_line(place: Place) -> str:
    """Whom a webhook's message answers, with a link to the question: Discord lets no webhook reply to a message.

    It mentions nobody. The link also tells after a crash which question a message belongs to. "" where nobody asked by
    a message.
    """
    if place.question_id is None:
        return ""
    # Brackets would end the text of the link, and an address in it would be a link of its own.
    name = _SLASHES.sub("/", _BRACKETS.sub("", visible(place.asker_name))).strip()
    name = discord.utils.escape_markdown(name)
    name = discord.utils.escape_mentions(name) or _("this message")
    return f"{_ADDRESS}[{name}]({question_link(place)})\n"


def question_link(place: Place) -> str:
    """The link to the message that asked, as `address_line` has it."""
    return f"https://discord.com/channels/{place.guild_id}/{place.channel_id}/{place.question_id}"


def without_address(text: str) -> str:
    """A text without that line: a message of the bot's own replies to the question."""
    return text.partition("\n")[2] if text.startswith(_ADDRESS + "[") else text


def speaker_line(speaker: Speaker | None) -> str:
    """The name of the persona that answers, in bold on a line of its own, as it was typed; "" where none is shown."""
    if speaker is None:
        return ""
    return f"**{discord.utils.escape_mentions(discord.utils.escape_markdown(speaker.name))}**\n"
