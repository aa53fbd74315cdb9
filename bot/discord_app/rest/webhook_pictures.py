"""The picture beside a webhook's messages: the guild's persona has its own one there, all others a plain one.

A message can only name a public address, and pictures of personas have none; but a webhook has one picture of its own.
It is that of the guild's persona, as the bot's profile in the guild would show it, and is changed when that one speaks.
Knows no Discord messages; `wanted` knows the guild's persona.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from bot.discord_app.delivery import DISCORD_ERRORS, describe_error
from bot.discord_app.rest.webhook_api import Webhook, WebhookApi
from bot.errors import BotError
from bot.keyed_locks import KeyedLocks
from models.types import WantedProfile

log = structlog.get_logger(__name__)

_PLAIN = "https://cdn.discordapp.com/embed/avatars/{}.png"
_NUM_PLAIN = 6
"""Discord's own pictures for accounts without one, of different colours."""
_UNKNOWN = "unknown"
_PATIENCE = 4.0
"""Seconds for which a message waits for a new picture of its webhook."""
_PAUSE = 300.0
"""Seconds between two changes: Discord limits them and does not say how."""
_MAX_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class _Shown:
    fingerprint: str
    again_at: float


def plain_picture(persona_id: int) -> str:
    """A plain picture, always the same one for a persona. With none, clients show that of another message."""
    return _PLAIN.format(persona_id % _NUM_PLAIN)


class WebhookPictures:
    """The pictures of one bot's webhooks."""

    def __init__(
        self,
        api: WebhookApi,
        wanted: Callable[[int], Awaitable[WantedProfile]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wanted`: the guild's persona and its picture. It may raise a BotError."""
        self._api = api
        self._wanted = wanted
        self._clock = clock
        self._locks = KeyedLocks[int]()
        self._shown: OrderedDict[int, _Shown] = OrderedDict()

    async def address(self, webhook: Webhook, guild_id: int, persona_id: int) -> str | None:
        """The address of the picture beside a persona's message; None for the webhook's own picture."""
        try:
            wanted = await self._wanted(guild_id)
        except BotError as error:
            log.info("the picture of a persona was not read", guild=guild_id, reason=error.reason)
            return plain_picture(persona_id)
        async with self._locks.hold(webhook.webhook_id):
            is_shown = await self._show(webhook, wanted)
        own = is_shown and wanted.picture is not None and wanted.persona_id == persona_id
        return None if own else plain_picture(persona_id)

    async def _show(self, webhook: Webhook, wanted: WantedProfile) -> bool:
        """Give the webhook this picture, or none, unless it has it; whether it has it now."""
        wish = wanted.fingerprint if wanted.picture is not None else ""
        shown = self._shown.get(webhook.webhook_id) or _Shown(_UNKNOWN if webhook.has_picture else "", 0.0)
        if shown.fingerprint == wish:
            return True
        if self._clock() < shown.again_at:
            return False
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._api.set_picture(webhook, wanted.picture)
        except DISCORD_ERRORS as error:
            log.info(
                "the picture of a webhook was not changed", webhook=webhook.webhook_id, error=describe_error(error)
            )
            wish = _UNKNOWN
        self._shown[webhook.webhook_id] = _Shown(wish, self._clock() + _PAUSE)
        self._shown.move_to_end(webhook.webhook_id)
        if len(self._shown) > _MAX_KEPT:
            self._shown.popitem(last=False)
        return wish != _UNKNOWN
