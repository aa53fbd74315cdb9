"""Finds messages of a reply that are on Discord although no one recorded them.

A process may die between Discord's acceptance of a message and the record of it, or the answer of Discord may be lost.
A message in a channel has a nonce, but Discord forgets nonces within minutes, and follow-ups and messages of webhooks
have none. So the bot's own messages there, or those of its webhook, are compared: with the interaction or message that
they answer, or with the text to be shown.
"""

from __future__ import annotations

from collections.abc import Mapping

import discord

from bot.chat.turns.deliveries import DeliveryLog
from bot.discord_app.replies.quoting import question_link
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import SeenMessage
from models.types import Place

_MAX_PAGES = 3  # of 100 messages each
_CLOSED_FENCE = ("\n```", "\n~~~")


class SentMessages:
    """The bot's own messages around one reply."""

    def __init__(self, api: MessageApi, deliveries: DeliveryLog, place: Place) -> None:
        self._api = api
        self._deliveries = deliveries
        self._place = place

    async def find(
        self, index: int, text: str | None, ids: Mapping[int, int], *, channel_id: int | None = None
    ) -> int | None:
        """Message `index` of the reply, if it was sent. `ids`: the messages that are known. None also where the bot may
        not read: then a text is rather shown twice than not at all.

        `text`: what it shall say in the end; None if that is not known. `channel_id`: another channel than the place's.
        """
        after = max([self._place.nonce, *(each for position, each in ids.items() if position < index)])
        for message in await self._unrecorded(channel_id or self._place.channel_id, after, frozenset(ids.values())):
            if self._is_part(message, index, text):
                return message.message_id
        return None

    async def find_text(self, text: str, *, channel_id: int) -> int | None:
        """A message that says exactly this and is no response to an interaction, sent after the question."""
        for message in await self._unrecorded(channel_id, self._place.nonce, frozenset()):
            if message.interaction_id is None and message.content.strip() == text.strip():
                return message.message_id
        return None

    def _is_part(self, message: SeenMessage, index: int, text: str | None) -> bool:
        place = self._place
        if place.webhook_id is not None and index == 0 and place.question_id is not None:
            return f"({question_link(place)})\n" in message.content + "\n"
        if place.application_id is not None and message.interaction_id is not None:
            return message.interaction_id == place.nonce
        if message.interaction_id is not None:
            return False
        if message.replies_to is not None:
            return index == 0 and message.replies_to == place.question_id
        if text is None:
            return place.application_id is None and index > 0
        return _is_beginning(message.content, text)

    async def _unrecorded(self, channel_id: int, after: int, known: frozenset[int]) -> list[SeenMessage]:
        """The bot's messages after an id that no delivery knows, oldest first."""
        found: list[SeenMessage] = []
        try:
            for _ in range(_MAX_PAGES):
                page = await self._api.own_messages(channel_id, after=after, webhook_id=self._place.webhook_id)
                found += page.messages
                if page.last_id is None:
                    break
                after = page.last_id
        except (discord.Forbidden, discord.NotFound):
            return []
        recorded = await self._deliveries.recorded([each.message_id for each in found]) | known
        return [await self._with_text(each) for each in found if each.message_id not in recorded]

    async def _with_text(self, message: SeenMessage) -> SeenMessage:
        """A webhook's message with its text, which Discord may keep from bots without the message content intent."""
        webhooks, webhook_id = self._api.webhooks, self._place.webhook_id
        if webhook_id is None or message.content:
            return message
        webhook = await webhooks.by_id(webhook_id)
        if webhook is None:
            return message
        try:
            return await webhooks.api.message(webhook, message.message_id, channel_id=self._place.channel_id)
        except (discord.Forbidden, discord.NotFound):
            return message


def _is_beginning(content: str, text: str) -> bool:
    """Whether a message shows this text, or the beginning of it that had been generated when it was sent."""
    shown, wanted = content.strip(), text.strip()
    for fence in _CLOSED_FENCE:  # a code block that went on was closed for the time being
        if shown != wanted and shown.endswith(fence):
            shown = shown.removesuffix(fence)
    return bool(shown) and wanted.startswith(shown)
