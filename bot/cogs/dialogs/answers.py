"""How these commands answer: one ephemeral message with buttons, edited in place when one of them is pressed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import discord

from bot.discord_app.context import Interaction
from bot.discord_app.delivery import defer, defer_click
from bot.discord_app.permissions.authorise import NotAllowed
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import BotError, DatabaseUnavailable
from bot.i18n.language import gettext as _
from models.types import LARGEST_ID

MAX_SUGGESTIONS = 25  # Discord's limit
_TIMEOUT = 2.0  # seconds, of the 3 in which a modal must be opened or suggestions be given


class OldButton(BotError):
    """A custom id that this version does not make: an older version did, or it is forged."""

    def __init__(self) -> None:
        super().__init__(_("I cannot use this button any more. Please use the command again."))


async def answer(
    api: MessageApi, interaction: Interaction, text: str, components: Sequence[dict[str, Any]] = ()
) -> None:
    """Put this into the response of a deferred interaction: a new one, or the message whose button was pressed."""
    await api.edit_response(interaction.application_id, interaction.token, text, components=components)


async def begin(interaction: Interaction) -> bool:
    """Defer a command as ephemeral, or a pressed button as an edit of its message. False when it was too late."""
    if interaction.type is not discord.InteractionType.component:
        return await defer(interaction, ephemeral=True)
    message = interaction.message
    if message is None or not message.flags.ephemeral:
        raise OldButton()  # these buttons stand under ephemeral messages only, which nobody else can edit
    used_by = message.interaction_metadata
    if used_by is not None and used_by.user.id != interaction.user.id:
        raise NotAllowed(_("Only the person who used this command can press its buttons."))
    return await defer_click(interaction)


def number(text: str) -> int:
    """A number in a custom id or option. Raises OldButton for anything else."""
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or int(text) > LARGEST_ID:
        raise OldButton()
    return int(text)


def chosen_number(interaction: Interaction) -> int:
    """The number that was chosen in a menu. Raises OldButton for anything else."""
    values = interaction.data.get("values") if interaction.data else None
    return number(str(values[0]) if isinstance(values, list) and values else "")


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """A block that must be done while the interaction can still be answered. Raises DatabaseUnavailable."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            yield
    except TimeoutError:
        raise DatabaseUnavailable("a form or suggestions could not be made in time") from None
