"""What stands above a reply: the question, of a public command, its files, and the name of who answers. Pure functions.

Whatever a member wrote, or called a file, is shown as typed and has no effect.
"""

from __future__ import annotations

import discord

from models.types import Place, Speaker

MAX_CHARS = 240
MAX_LINES = 4
ANEW = "-# In place of my answer above:\n"
"""Stands above a reply that replaces one whose messages cannot all be changed any more."""


def heading(place: Place, text: str) -> str:
    """What stands above a reply here: the question, and a link to the message that it is about; "" if nothing does."""
    if not place.is_seen_by_others:
        return ""
    path = place.path or (f"{place.guild_id or '@me'}/{place.channel_id}" if place.channel_id else "")
    if not place.about_id or not path:
        return quoted_question(text)
    link = f"https://discord.com/channels/{path}/{place.about_id}"
    return f"{quoted_question(text)}-# About [this message]({link})\n"


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


def speaker_line(speaker: Speaker | None) -> str:
    """The name of the persona that answers, in bold on a line of its own, as it was typed; "" where none is shown."""
    if speaker is None:
        return ""
    return f"**{discord.utils.escape_mentions(discord.utils.escape_markdown(speaker.name))}**\n"
