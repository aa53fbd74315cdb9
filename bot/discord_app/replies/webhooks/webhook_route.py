"""How the messages of one reply are reached where a persona speaks through the webhook of the channel.

The same as `MessageRoute`, whose own way is used for messages that turn out to be the bot's own. Knows Discord's
requests and error codes. Knows neither what is recorded of a reply nor what it says.
"""

from __future__ import annotations

import contextlib

import discord

from bot.discord_app.delivery import DISCORD_ERRORS
from bot.discord_app.message_sink import SinkUnreachable
from bot.discord_app.replies.sinks.message_route import MessageRoute
from bot.discord_app.rest.channel_webhooks import problem_of
from bot.discord_app.rest.forbidden_channels import THREAD_ARCHIVED, ChannelForbidden
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import Components
from bot.discord_app.rest.request_pace import Kind, Turn, Urgency
from bot.discord_app.rest.webhook_api import Voice, Webhook, WebhookMoved
from models.types import Place

_UNKNOWN_MESSAGE = 10008
_GONE = "the webhook of this channel is gone"


class WebhookRoute(MessageRoute):
    """Sends, edits and deletes messages of one webhook. What Discord answers is raised as it is."""

    def __init__(self, api: MessageApi, place: Place, voice: Voice) -> None:
        super().__init__(api, place)
        self._webhooks = api.webhooks
        self._webhook_id = place.webhook_id or 0
        self._voice = voice

    def turn(self, kind: Kind, urgency: Urgency) -> contextlib.AbstractAsyncContextManager[Turn | None]:
        """Wait for a request to the webhook: Discord counts them apart from those of the channel."""
        return self._api.pace.turn("webhook", self._webhook_id, urgency)

    async def send(
        self,
        text: str,
        *,
        nonce: str,
        reply_to: int | None,
        components: Components,
        file: str | None,
        turn: Turn | None,
    ) -> int:
        """Send a message in the persona's name. It has no nonce, and replies to nothing. Raises SinkUnreachable."""
        webhook = await self._webhook()
        address = await self._webhooks.pictures.address(webhook, self._place.guild_id, self._voice.persona_id)
        async with self._own_turn(turn) as own:
            try:
                return await self._webhooks.api.send(
                    webhook,
                    text,
                    channel_id=self._place.channel_id,
                    name=self._voice.name,
                    avatar_url=address,
                    components=components,
                    file=file,
                    turn=own,
                )
            except WebhookMoved as error:
                self._webhooks.failed(webhook, error)
                raise SinkUnreachable(_GONE) from None
            except discord.HTTPException as error:
                self._webhooks.failed(webhook, error)
                raise

    async def edit(
        self, message_id: int, text: str, *, components: Components, file: str | None, turn: Turn | None
    ) -> None:
        """Edit a message of the webhook, or one of the bot's own that is a part of the same reply."""
        webhook = await self._webhook()
        try:
            await self._edit(webhook, message_id, text, components=components, file=file, turn=turn)
        except discord.HTTPException as error:
            if error.code == THREAD_ARCHIVED:
                await self._api.reopen_thread(self._place.channel_id)
                await self._edit(webhook, message_id, text, components=components, file=file, turn=None)
            elif error.status == 404 and error.code == _UNKNOWN_MESSAGE:
                await super().edit(message_id, text, components=components, file=file, turn=None)
            else:
                if problem_of(error) == "gone":
                    self._webhooks.failed(webhook, error)
                raise

    async def remove(self, message_id: int) -> bool:
        """Delete a message, if it can be reached. Does not raise what Discord refuses."""
        try:
            webhook = await self._webhooks.by_id(self._webhook_id)
            if webhook is None:
                return False
            await self._webhooks.api.delete(webhook, message_id, channel_id=self._place.channel_id)
        except discord.NotFound as error:
            # Not the webhook's: only then may it be the bot's own, which it may delete without more permissions.
            return error.code == _UNKNOWN_MESSAGE and await super().remove(message_id)
        except (*DISCORD_ERRORS, ChannelForbidden):
            return False
        return True

    async def _webhook(self) -> Webhook:
        webhook = await self._webhooks.by_id(self._webhook_id)
        if webhook is None:
            raise SinkUnreachable(_GONE)
        return webhook

    def _own_turn(self, given: Turn | None) -> contextlib.AbstractAsyncContextManager[Turn | None]:
        """The caller's turn, or a new one to be waited for."""
        if given is not None and given.kind == "webhook":
            return contextlib.nullcontext(given)
        return self.turn("webhook", Urgency.FINAL)

    async def _edit(
        self,
        webhook: Webhook,
        message_id: int,
        text: str,
        *,
        components: Components,
        file: str | None,
        turn: Turn | None,
    ) -> None:
        async with self._own_turn(turn) as own:
            await self._webhooks.api.edit(
                webhook,
                message_id,
                text,
                channel_id=self._place.channel_id,
                components=components,
                file=file,
                turn=own,
            )
