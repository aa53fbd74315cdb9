"""How the messages of one reply are reached: by an interaction's token while it lives, or as the bot in the channel.

Knows Discord's requests and error codes. Knows neither what is recorded of a reply nor what it says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import discord

from bot.discord_app.delivery import DISCORD_ERRORS
from bot.discord_app.message_sink import SinkUnreachable
from bot.discord_app.rest.forbidden_channels import THREAD_ARCHIVED, ChannelForbidden
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import Components
from bot.discord_app.rest.request_pace import Kind, Turn, Urgency
from models.types import Place

_TOKEN_MARGIN = timedelta(seconds=30)
"""A token this close to its end is not used any more: the request may take a while."""
_UNKNOWN_MESSAGE = 10008


class MessageRoute:
    """Sends, edits and deletes messages in one place. What Discord answers is raised as it is."""

    def __init__(self, api: MessageApi, place: Place) -> None:
        self._api = api
        self._place = place
        self._token_refused = False

    @property
    def has_token(self) -> bool:
        """Whether an interaction's token can be used now."""
        return self._token() is not None

    def turn(self, kind: Kind, urgency: Urgency) -> contextlib.AbstractAsyncContextManager[Turn | None]:
        """Wait for a request to the channel. Requests with an interaction's token are counted apart."""
        if self._place.application_id is not None and (self.has_token or self._place.by_token_only):
            return contextlib.nullcontext()
        return self._api.pace.turn(kind, self._place.channel_id, urgency)

    async def respond(self, text: str, *, components: Components, file: str | None) -> int:
        """Fill the interaction's response. Raises SinkUnreachable without a token."""
        application_id, token = self._require_token()
        return await self._with_token(
            self._api.edit_response(application_id, token, text, components=components, file=file)
        )

    async def follow_up(self, text: str, *, nonce: str, components: Components, file: str | None) -> int:
        """Send a follow-up of the interaction. Raises SinkUnreachable without a token."""
        application_id, token = self._require_token()
        return await self._with_token(
            self._api.follow_up(
                application_id,
                token,
                text,
                nonce=nonce,
                ephemeral=self._place.ephemeral,
                components=components,
                file=file,
            )
        )

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
        """Send a message in the channel."""
        return await self._api.send(
            self._place.channel_id,
            text,
            nonce=nonce,
            reply_to=reply_to,
            components=components,
            file=file,
            turn=turn if turn is not None and turn.kind == "create" else None,
        )

    async def edit(
        self, message_id: int, text: str, *, components: Components, file: str | None, turn: Turn | None
    ) -> None:
        """Edit a message by the token, or as the bot's own. Raises SinkUnreachable where neither may be done."""
        place = self._place
        token = self._token()
        if token is not None:
            try:
                await self._with_token(
                    self._api.edit_response(*token, text, message=message_id, components=components, file=file)
                )
                return
            except discord.NotFound as error:
                if place.by_token_only or error.code != _UNKNOWN_MESSAGE:
                    raise
                # A message of an earlier interaction: the bot may edit it as its own.
        elif place.by_token_only:
            raise SinkUnreachable("such a message cannot be edited once its token has expired")
        elif place.application_id is not None and message_id > place.nonce:
            # Where the asker has waited for so long, a new message that names them does better than an edit.
            raise SinkUnreachable("the interaction's token has expired")
        own = turn if turn is not None and turn.kind == "edit" else None
        try:
            await self._api.edit(place.channel_id, message_id, text, components=components, file=file, turn=own)
        except discord.HTTPException as error:
            if error.code != THREAD_ARCHIVED:
                raise
            await self._api.reopen_thread(place.channel_id)
            await self._api.edit(place.channel_id, message_id, text, components=components, file=file)

    async def remove(self, message_id: int) -> bool:
        """Delete a message, if it can be reached; whether it is gone. Does not raise what Discord refuses."""
        with contextlib.suppress(*DISCORD_ERRORS, ChannelForbidden):
            token = self._token()
            if token is not None:
                try:
                    await self._api.delete_response(*token, message_id)
                    return True
                except discord.NotFound:
                    pass
            if not self._place.by_token_only:
                await self._api.delete(self._place.channel_id, message_id)
                return True
        return False

    def _token(self) -> tuple[int, str] | None:
        """Application and token of the interaction while it can be used."""
        place = self._place
        if place.reply_token is None or place.application_id is None or self._token_refused:
            return None
        if place.token_expires_at is not None and datetime.now(UTC) > place.token_expires_at - _TOKEN_MARGIN:
            return None
        return place.application_id, place.reply_token

    def _require_token(self) -> tuple[int, str]:
        if (token := self._token()) is None:
            raise SinkUnreachable("the interaction's token has expired")
        return token

    async def _with_token(self, request: Awaitable[int]) -> int:
        """Run a request through the token, and remember if Discord does not take the token any more."""
        try:
            return await request
        except discord.HTTPException as error:
            if error.status == 401 or (error.status == 404 and error.code != _UNKNOWN_MESSAGE):
                self._token_refused = True
            raise
