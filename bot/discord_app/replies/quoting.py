"""What stands above a reply: the question, of a public command, and what is to be said of its files. Pure functions.

Whatever a member wrote, or called a file, is shown as typed and has no effect.
"""

from __future__ import annotations

import discord

MAX_CHARS = 240
MAX_LINES = 4


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
