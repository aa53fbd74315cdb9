"""The modal in which a persona is written, and the values of a submitted one.

Its custom id says what it is for, so that a submitted text is not lost if the bot restarted in the meantime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import discord
from discord.ui import Label, Modal, TextInput

from bot.discord_app.context import Interaction
from models.types import PersonaText

_MAX_FIELD_CHARS = 4000  # Discord's limit for a text input
_MAX_NAME_CHARS = 80


def persona_modal(custom_id: str, title: str, current: PersonaText | None, *, max_chars: int, name: str = "") -> Modal:
    """A modal with the current persona filled in. A prompt longer than a field can hold is left out.

    `name`, if given, replaces the current name.
    """
    max_length = min(max_chars, _MAX_FIELD_CHARS)
    prompt: TextInput[Modal] = TextInput(
        custom_id="prompt",
        style=discord.TextStyle.paragraph,
        placeholder="You are …",
        default=current.prompt if current and len(current.prompt) <= max_length else None,
        max_length=max_length,
    )
    name_input: TextInput[Modal] = TextInput(
        custom_id="name",
        required=False,
        default=name or (current.name if current else "") or None,
        max_length=_MAX_NAME_CHARS,
    )
    modal = Modal(title=title, custom_id=custom_id, timeout=None)
    modal.add_item(Label(text="Who am I?", description="What I am told before every conversation", component=prompt))
    modal.add_item(Label(text="Name", component=name_input))
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal


def submitted_fields(interaction: Interaction) -> dict[str, str]:
    """The values of a submitted modal by the custom ids of its fields, in whichever layout Discord sends them."""
    return dict(_fields(interaction.data))


def _fields(node: object) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        custom_id, value = node.get("custom_id"), node.get("value")
        if isinstance(custom_id, str) and isinstance(value, str):
            yield custom_id, value
        for child in node.values():
            yield from _fields(child)
    elif isinstance(node, list):
        for child in node:
            yield from _fields(child)
