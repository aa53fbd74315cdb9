"""The form in which a persona is written, and reading back what somebody wrote into it.

The form's custom id says what it is for, so that what was typed is not lost if the bot was restarted meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import discord
from discord.ui import Label, Modal, TextInput

from bot.discord_app.context import Interaction
from models.types import PersonaText

_LONGEST_FIELD = 4000  # Discord's limit for one field


def persona_modal(custom_id: str, title: str, current: PersonaText | None, *, longest: int, name: str = "") -> Modal:
    limit = min(longest, _LONGEST_FIELD)
    given = current.prompt if current and len(current.prompt) <= limit else None
    prompt: TextInput[Modal] = TextInput(
        custom_id="prompt",
        style=discord.TextStyle.paragraph,
        placeholder="You are …",
        default=given,
        max_length=limit,
    )
    named: TextInput[Modal] = TextInput(
        custom_id="name", required=False, default=name or (current.name if current else "") or None, max_length=80
    )
    modal = Modal(title=title, custom_id=custom_id, timeout=None)
    modal.add_item(Label(text="Who am I?", description="What I am told before every conversation", component=prompt))
    modal.add_item(Label(text="Name", component=named))
    modal.stop()  # discord.py need not keep it: `bot.discord_app.client` serves every form by its custom id
    return modal


def fields(interaction: Interaction) -> dict[str, str]:
    """What stands in the fields of a submitted form, by custom id, in whichever layout Discord sends them."""
    return dict(_fields(interaction.data))


def _fields(node: object) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        name, value = node.get("custom_id"), node.get("value")
        if isinstance(name, str) and isinstance(value, str):
            yield name, value
        for inner in node.values():
            yield from _fields(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _fields(inner)
