"""Messages as Discord's REST API takes and returns them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import discord

NO_MENTIONS = discord.AllowedMentions.none()
FILE_NAME = "answer.md"
SUPPRESS_EMBEDS = discord.MessageFlags(suppress_embeds=True).value
EPHEMERAL = discord.MessageFlags(ephemeral=True).value

Components = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SeenMessage:
    """A message of the bot as it is in the channel."""

    message_id: int
    content: str
    interaction_id: int | None
    """The interaction that it is a response to."""
    replies_to: int | None
    """The message of a member that it answers."""


@dataclass(frozen=True, slots=True)
class MessagePage:
    """The bot's messages in a part of a channel, oldest first; `last_id`: where the next part begins, if any."""

    messages: tuple[SeenMessage, ...]
    last_id: int | None


def was_sent_before(message: Mapping[str, Any], text: str, components: Components) -> bool:
    """Whether Discord recognised the nonce, and answered with a message that shows something else."""
    if str(message.get("content", text)).strip() != text.strip():
        return True
    shown = message.get("components")
    return shown is not None and _custom_ids(shown) != _custom_ids(components)


def _custom_ids(components: Components) -> list[str]:
    return [str(each.get("custom_id")) for row in components for each in row.get("components") or ()]


def id_of(data: Any) -> int:
    """The id of a message that Discord answered with, 0 without one."""
    return int(data.get("id", 0))


def seen(message: dict[str, Any]) -> SeenMessage:
    """One of the bot\'s messages, as Discord lists it."""
    interaction = message.get("interaction_metadata") or message.get("interaction") or {}
    interaction_id = int(interaction["id"]) if "id" in interaction else None
    reference = message.get("message_reference") or {}
    replies_to = int(reference["message_id"]) if interaction_id is None and "message_id" in reference else None
    return SeenMessage(int(message["id"]), str(message.get("content", "")), interaction_id, replies_to)


def body_of(text: str, components: Components, file: str | None, *, edit: bool = False) -> dict[str, Any]:
    """A message to be sent, or what an edit changes it to. Nothing in it can mention anyone."""
    body: dict[str, Any] = {
        "content": text,
        "components": list(components),
        "allowed_mentions": NO_MENTIONS.to_dict(),
    }
    if file is not None:
        body["attachments"] = [{"id": 0, "filename": FILE_NAME}]
    elif edit:
        body["attachments"] = []  # one that an earlier text had
    return body
