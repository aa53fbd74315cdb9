"""Where one reply is shown: its Discord messages, by ids, through an interaction's token or as the bot in the channel.

Each message that shows its final text is recorded (`bot.chat.deliveries`), so that another process can go on after a
crash. Knows Discord's error codes; knows nothing of what a reply says or when it is edited.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import discord
import structlog

from bot.chat.deliveries import DeliveryLog
from bot.discord_app.code_fences import utf16_length
from bot.discord_app.delivery import DISCORD_ERRORS, describe_error, sink_errors
from bot.discord_app.message_api import ChannelForbidden, Components, MessageApi
from bot.discord_app.message_split import MESSAGE_LIMIT
from bot.discord_app.streamed_reply import SinkUnreachable
from models.types import DIRECT_MESSAGES, Place

log = structlog.get_logger(__name__)

_TOKEN_MARGIN = timedelta(seconds=30)
"""A token this close to its end is not used any more: the request may take a while."""
_NO_MORE_MESSAGES = 40094  # follow-ups of a user-installed app


class ReplySink:
    """A `MessageSink` for one place."""

    def __init__(
        self, api: MessageApi, deliveries: DeliveryLog, place: Place, *, stop_buttons: Components = ()
    ) -> None:
        self.delivery_id = 0
        """The record of what is shown; 0 until the turn has begun, and where nothing is recorded."""
        self.buttons: Components = ()
        """The buttons under the finished reply."""
        self._api = api
        self._deliveries = deliveries
        self._place = place
        self._stop_buttons = stop_buttons
        self._ids: dict[int, int] = {index: each for index, each in enumerate(place.message_ids) if each is not None}

    @property
    def message_ids(self) -> frozenset[int]:
        """The messages on Discord that belong to this reply."""
        return frozenset(self._ids.values())

    @property
    def ordered_ids(self) -> tuple[int | None, ...]:
        """The messages in their order, to be taken over by another sink."""
        return tuple(self._ids.get(index) for index in range(self.num_messages))

    @property
    def num_messages(self) -> int:
        """How many messages exist, or existed before the reply was written anew."""
        return max(self._ids, default=-1) + 1

    async def show(self, index: int, text: str, *, live: bool, last: bool = False, file: str | None = None) -> None:
        """Edit a message, or send it if it does not exist yet. `last`: no message follows, of a finished reply."""
        components = self._stop_buttons if live and index == 0 else self.buttons if last and not live else ()
        known = self._ids.get(index)
        with sink_errors():
            if known is None:
                self._ids[index] = await self._create(index, text, components, file)
            else:
                await self._edit(known, text, components, file)
        if live:
            if known is None and not (index == 0 and self._place.reply_token):
                await self._deliveries.sent(self.delivery_id, index, self._ids[index])
        else:
            await self._deliveries.shown(self.delivery_id, [(index, self._ids[index])], done=last)

    async def delete(self, index: int) -> None:
        """Delete a message that the reply does not need any more."""
        message_id = self._ids.pop(index, None)
        if message_id is None:
            return
        with contextlib.suppress(*DISCORD_ERRORS):
            if self._token is not None:
                application_id, token = self._token
                try:
                    await self._api.delete_response(application_id, token, message_id)
                except discord.NotFound:
                    if not self._place.by_token_only:
                        await self._api.delete(self._place.channel_id, message_id)
            elif not self._place.by_token_only:
                await self._api.delete(self._place.channel_id, message_id)
        await self._deliveries.shown(self.delivery_id, [(index, None)], done=False)

    async def clear(self) -> None:
        """Delete the messages of a reply that failed, except the first one, which then shows the error."""
        for index in sorted(self._ids, reverse=True):
            if index > 0:
                await self.delete(index)

    async def delete_all(self) -> None:
        """Delete every message of a reply that is not to be seen any more."""
        for index in sorted(self._ids, reverse=True):
            await self.delete(index)

    async def send_fallback(self, messages: Sequence[str], file: str | None, *, first: int = 0) -> None:
        """Send the rest of a reply (from message `first`) as plain messages that name the asker.

        To the channel; to the member alone if the reply was ephemeral, or shown where the bot itself is not. What
        cannot be sent now is left to the job that looks for unfinished deliveries, unless Discord refuses it for good.
        """
        place = self._place
        mention = "" if place.guild_id == DIRECT_MESSAGES or place.by_token_only else f"<@{place.asker_id}> "
        texts = list(messages)
        lines = [mention.strip(), *texts] if utf16_length(mention + texts[0]) > MESSAGE_LIMIT else texts
        if lines is texts:
            lines[0] = mention + lines[0]
        try:
            channel_id = await self._api.open_dm(place.asker_id) if place.by_token_only else place.channel_id
            for index, text in enumerate(lines, start=first):
                last = index == first + len(lines) - 1
                message_id = await self._api.send(
                    channel_id,
                    text,
                    nonce=f"{place.nonce}.{index}L",  # at most 25 characters
                    reply_to=place.question_id if index == first else None,
                    components=self.buttons if last and not place.by_token_only else (),
                    file=file if last else None,
                )
                await self._deliveries.shown(self.delivery_id, [(index, message_id)], done=last)
        except (discord.Forbidden, discord.NotFound, ChannelForbidden) as error:
            log.warning("a finished reply could not be delivered", question=place.nonce, error=type(error).__name__)
            await self._deliveries.shown(self.delivery_id, [], done=True)
        except DISCORD_ERRORS as error:
            log.warning(
                "a finished reply could not be delivered yet", question=place.nonce, error=describe_error(error)
            )
            await self._deliveries.release(self.delivery_id)

    @property
    def _token(self) -> tuple[int, str] | None:
        """Application and token of the interaction while it can be used."""
        place = self._place
        if place.reply_token is None or place.application_id is None:
            return None
        if place.token_expires_at is not None and datetime.now(UTC) > place.token_expires_at - _TOKEN_MARGIN:
            return None
        return place.application_id, place.reply_token

    async def _create(self, index: int, text: str, components: Components, file: str | None) -> int:
        place = self._place
        if place.reply_token is None:
            return await self._send(index, text, components, file)
        if self._token is None:
            raise SinkUnreachable("the interaction's token has expired")
        application_id, token = self._token
        if index == 0:
            return await self._api.edit_response(application_id, token, text, components=components, file=file)
        return await self._api.follow_up(
            application_id,
            token,
            text,
            nonce=f"{place.nonce}.{index}",
            ephemeral=place.ephemeral,
            components=components,
            file=file,
        )

    async def _send(self, index: int, text: str, components: Components, file: str | None) -> int:
        place = self._place
        try:
            return await self._api.send(
                place.channel_id,
                text,
                nonce=f"{place.nonce}.{index}",
                reply_to=place.question_id if index == 0 else None,
                components=components,
                file=file,
            )
        except ChannelForbidden:
            raise SinkUnreachable("the bot may not write in this channel") from None

    async def _edit(self, message_id: int, text: str, components: Components, file: str | None) -> None:
        place = self._place
        if self._token is not None:
            application_id, token = self._token
            try:
                await self._api.edit_response(
                    application_id, token, text, message=message_id, components=components, file=file
                )
            except discord.NotFound:
                if place.by_token_only:
                    raise
                # A message of an earlier interaction: the bot may edit it as its own.
                await self._api.edit(place.channel_id, message_id, text, components=components, file=file)
        elif place.by_token_only:
            raise SinkUnreachable("such a message cannot be edited once its token has expired")
        else:
            await self._api.edit(place.channel_id, message_id, text, components=components, file=file)
