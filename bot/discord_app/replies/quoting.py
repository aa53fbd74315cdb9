"""A member's question as it stands above a public reply to a command: short, quoted, without effect. Pure functions."""

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
