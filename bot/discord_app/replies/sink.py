"""Where one reply is shown: its Discord messages, by ids, through an interaction's token or as the bot in the channel.

Each message that shows its final text is recorded (`bot.chat.deliveries`), so that another process can go on after a
crash. Knows Discord's error codes; knows nothing of what a reply says or when it is edited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import discord
import structlog

from bot.chat.deliveries import DeliveryLog
from bot.discord_app.code_fences import utf16_length
from bot.discord_app.delivery import DISCORD_ERRORS, describe_error, sink_errors
from bot.discord_app.message_api import THREAD_ARCHIVED, ChannelForbidden, Components, MessageApi
from bot.discord_app.message_split import MESSAGE_LIMIT
from bot.discord_app.request_pace import Kind, Turn, Urgency
from bot.discord_app.streamed_reply import SinkUnreachable
from models.types import DIRECT_MESSAGES, Place

log = structlog.get_logger(__name__)

_TOKEN_MARGIN = timedelta(seconds=30)
"""A token this close to its end is not used any more: the request may take a while."""
_NO_MORE_MESSAGES = 40094  # follow-ups of a user-installed app


class ReplySink:
    """A `MessageSink` for one place. `prefix`: what stands above the reply, which a plain message does without."""

    def __init__(
        self,
        api: MessageApi,
        deliveries: DeliveryLog,
        place: Place,
        *,
        prefix: str = "",
        stop_buttons: Components = (),
    ) -> None:
        self.delivery_id = 0
        """The record of what is shown; 0 until the turn has begun, and where nothing is recorded."""
        self.buttons: Components = ()
        """The buttons under the finished reply."""
        self._api = api
        self._deliveries = deliveries
        self._place = place
        self.prefix = prefix
        """What stands above the reply; a plain message that names the asker does without it."""
        self._stop_buttons = stop_buttons
        self._unrecorded: set[int] = set()
        self._recording: asyncio.Task[None] | None = None
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

    def begin(self, delivery_id: int) -> None:
        """The turn is stored, and the record of what is shown exists."""
        self.delivery_id = delivery_id
        if self._unrecorded:
            self._recording = asyncio.create_task(self._record(), name="record-messages")

    def turn(self, index: int, urgency: Urgency) -> contextlib.AbstractAsyncContextManager[Turn | None]:
        """Wait for a request to the channel. Requests with an interaction's token are counted apart."""
        if self._place.reply_token is not None and (self._token is not None or self._place.ephemeral):
            return contextlib.nullcontext()
        kind: Kind = "edit" if index in self._ids else "create"
        return self._api.pace.turn(kind, self._place.channel_id, urgency)

    async def show(
        self,
        index: int,
        text: str,
        *,
        live: bool,
        last: bool = False,
        file: str | None = None,
        turn: Turn | None = None,
    ) -> None:
        """Edit a message, or send it if it does not exist yet. `last`: no message follows, of a finished reply."""
        components = self._stop_buttons if live and index == 0 else self.buttons if last and not live else ()
        known = self._ids.get(index)
        with sink_errors():
            if known is None:
                self._ids[index] = await self._create(index, text, components, file, turn)
            else:
                try:
                    await self._edit(known, text, components, file, turn)
                except discord.HTTPException as error:
                    if error.code != THREAD_ARCHIVED:
                        raise
                    await self._api.reopen_thread(self._place.channel_id)
                    await self._edit(known, text, components, file, turn)
        if live:
            if known is None and not (index == 0 and self._place.reply_token):
                self._unrecorded.add(index)
                await self._record()
        else:
            await self._deliveries.shown(self.delivery_id, [(index, self._ids[index])], done=last)

    async def _record(self) -> None:
        """Record the messages that were sent, once there is a record: the place in line is shown before."""
        while self.delivery_id and self._unrecorded:
            index = self._unrecorded.pop()
            if (message_id := self._ids.get(index)) is not None:
                await self._deliveries.sent(self.delivery_id, index, message_id)

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
        texts = [messages[0].removeprefix(self.prefix) if first == 0 else messages[0], *messages[1:]]
        lines = [mention.strip(), *texts] if utf16_length(mention + texts[0]) > MESSAGE_LIMIT else texts
        if lines is texts:
            lines[0] = mention + lines[0]
        if not place.may_send and not place.by_token_only:
            log.warning("a finished reply could not be delivered: no permission to send", question=place.nonce)
            await self._deliveries.shown(self.delivery_id, [], done=True)
            return
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
            if isinstance(error, discord.HTTPException) and error.code == THREAD_ARCHIVED:
                log.warning("a finished reply could not be delivered: the thread is locked", question=place.nonce)
                await self._deliveries.shown(self.delivery_id, [], done=True)
                return
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

    async def _create(self, index: int, text: str, components: Components, file: str | None, turn: Turn | None) -> int:
        place = self._place
        if place.reply_token is None:
            return await self._send(index, text, components, file, turn)
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

    async def _send(self, index: int, text: str, components: Components, file: str | None, turn: Turn | None) -> int:
        place = self._place
        try:
            return await self._api.send(
                place.channel_id,
                text,
                nonce=f"{place.nonce}.{index}",
                reply_to=place.question_id if index == 0 else None,
                components=components,
                file=file,
                turn=turn if turn is not None and turn.kind == "create" else None,
            )
        except ChannelForbidden:
            raise SinkUnreachable("the bot may not write in this channel") from None

    async def _edit(
        self, message_id: int, text: str, components: Components, file: str | None, turn: Turn | None
    ) -> None:
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
            turn = turn if turn is not None and turn.kind == "edit" else None
            await self._api.edit(place.channel_id, message_id, text, components=components, file=file, turn=turn)
