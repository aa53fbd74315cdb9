"""Which messages on Discord are the bot's own: those of its account, and those of its webhooks. Knows discord.py."""

from __future__ import annotations

import discord


def is_own_message(message: discord.Message, *, bot_id: int, application_id: int | None) -> bool:
    """Whether the bot wrote this message, as itself or through a webhook of its application."""
    return message.author.id == bot_id or is_by_own_webhook(message, application_id=application_id)


def is_by_own_webhook(message: discord.Message, *, application_id: int | None) -> bool:
    """Whether a persona wrote this message through a webhook of the bot. A response to an interaction is the bot's."""
    if message.webhook_id is None or application_id is None or message.application_id != application_id:
        return False
    return message.webhook_id != application_id
