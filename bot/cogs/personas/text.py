"""What the persona commands say, by level, in Discord's Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from discord.utils import escape_markdown

from models.types import PersonaText, PersonaVersionInfo

Level = Literal["guild", "member"]

MODAL_TITLES: Mapping[Level, str] = {"guild": "The persona of this guild", "member": "Your own persona for me"}
NOW: Mapping[Level, str] = {
    "guild": "From the next message on I am {name} in this guild.",
    "member": "From now on I am {name} for you here.",
}
KEPT = "Our conversations go on; /reset starts a new one."
CLEARED: Mapping[Level, str] = {"guild": "This guild's persona is gone.", "member": "Your own persona is gone."}
NOT_SET: Mapping[Level, str] = {
    "guild": "This guild has no persona of its own.",
    "member": "You have no persona of your own here.",
}
COMMANDS: Mapping[Level, str] = {"guild": "/persona", "member": "/me persona"}
SHOWN: Mapping[Level, str] = {"guild": "In this guild I am {name}:", "member": "For you I am {name} here:"}
_PREVIEW_CHARS = 80


def name_of(persona: PersonaText) -> str:
    """The persona's name in bold, or what to call one without a name."""
    return f"**{escape_markdown(persona.name)}**" if persona.name else "this persona"


def version_line(version: PersonaVersionInfo) -> str:
    """One version in the list: its number, date, name and first words."""
    text = " ".join(version.prompt.split())
    preview = escape_markdown(text if len(text) <= _PREVIEW_CHARS else f"{text[:_PREVIEW_CHARS]}…")
    name = f" · **{escape_markdown(version.name)}**" if version.name else ""
    active = " · **in force**" if version.active else ""
    return f"{version.version}\\. {version.created_at:%Y-%m-%d %H:%M} UTC{name}{active} · {preview}"
