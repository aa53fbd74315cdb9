"""Shows the rest of a reply where its messages cannot be reached any more: as plain messages that name the asker.

In the channel; to the asker alone if the reply was ephemeral, or if the bot may not write in the channel. Nothing is
lost while Discord is away: what cannot be sent now is left to the job that finishes deliveries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import discord
import structlog

from bot.chat.turns.deliveries import DeliveryLog
from bot.discord_app.delivery import DISCORD_ERRORS, describe_error
from bot.discord_app.message_sink import DeliveryTaken
from bot.discord_app.replies.sinks.sent_messages import SentMessages
from bot.discord_app.rest.forbidden_channels import THREAD_ARCHIVED, THREAD_LOCKED, ChannelForbidden
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import Components
from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.i18n.language import gettext as _
from models.types import DIRECT_MESSAGES, Place

log = structlog.get_logger(__name__)

_REFUSALS = (THREAD_ARCHIVED, THREAD_LOCKED)


class LateDelivery:
    """Plain messages for one reply."""

    def __init__(
        self,
        api: MessageApi,
        deliveries: DeliveryLog,
        place: Place,
        sent: SentMessages,
        delivery_id: int,
        *,
        before_message: Callable[[], Awaitable[None]],
    ) -> None:
        """`before_message` raises DeliveryTaken if another process shows the rest."""
        self._before_message = before_message
        self._api = api
        self._deliveries = deliveries
        self._place = place
        self._sent = sent
        self._delivery_id = delivery_id
        self._ids: dict[int, int] = {}

    async def send(
        self,
        messages: Sequence[str],
        file: str | None,
        buttons: Components,
        *,
        first: int,
        uncertain: bool,
        by_reply: bool = False,
    ) -> dict[int, int]:
        """Send the messages from number `first` on; return their ids. Does not raise what Discord refuses.

        `uncertain`: some of them may have been sent before. `by_reply`: a reply tells the asker, without a mention.
        """
        place = self._place
        try:
            if not place.by_token_only:
                try:
                    if not place.may_send:
                        raise ChannelForbidden("no permission to send")
                    # A quoted question must begin its line to be a quote.
                    space = "\n" if messages[0].startswith(">") else " "
                    named = place.guild_id == DIRECT_MESSAGES or by_reply
                    mention = "" if named else f"<@{place.asker_id}>{space}"
                    await self._send_to(place.channel_id, mention, messages, file, buttons, first, uncertain)
                    return self._ids
                except (discord.HTTPException, ChannelForbidden) as error:
                    if not _is_final(error) or place.guild_id == DIRECT_MESSAGES:
                        raise
                log.info("no permission to send in the channel: a reply goes to direct messages", question=place.nonce)
            skipped = len(self._ids)
            hidden = place.by_token_only
            opening = "" if hidden else _opening(place)
            await self._send_to(
                await self._api.open_dm(place.asker_id),
                opening,
                messages[skipped:],
                file,
                (),
                first + skipped,
                uncertain,
            )
        except DeliveryTaken:
            log.info("another process delivers the rest of a reply", question=place.nonce)
        except (*DISCORD_ERRORS, ChannelForbidden) as error:
            await self._not_sent(error)
        return self._ids

    async def _send_to(
        self,
        channel_id: int,
        opening: str,
        messages: Sequence[str],
        file: str | None,
        buttons: Components,
        first: int,
        uncertain: bool,
    ) -> None:
        place = self._place
        texts = list(messages)
        if utf16_length(opening + texts[0]) <= MESSAGE_LIMIT:
            texts[0] = opening + texts[0]
        elif not (uncertain and await self._sent.find_text(opening, channel_id=channel_id)):
            await self._api.send(channel_id, opening, nonce=f"{place.nonce}.{first}t")
        for index, text in enumerate(texts, start=first):
            last = index == first + len(texts) - 1
            await self._before_message()
            message_id = await self._sent.find_text(text, channel_id=channel_id) if uncertain else None
            if message_id is None:
                uncertain = False  # they are sent in their order: neither are those after it there
                message_id = await self._api.send(
                    channel_id,
                    text,
                    nonce=f"{place.nonce}.{index}l",
                    reply_to=place.question_id if index == first and channel_id == place.channel_id else None,
                    components=buttons if last else (),
                    file=file if last else None,
                )
            self._ids[index] = message_id
            await self._deliveries.shown(self._delivery_id, [(index, message_id)], done=last)

    async def _not_sent(self, error: Exception) -> None:
        """Give up what Discord refuses for good; leave the rest to a later attempt."""
        described = type(error).__name__ if isinstance(error, ChannelForbidden) else describe_error(error)
        if _is_final(error):
            log.warning("a finished reply could not be delivered", question=self._place.nonce, error=described)
            await self._deliveries.shown(self._delivery_id, [], done=True)
        elif await self._deliveries.release(self._delivery_id):
            log.warning("a finished reply could not be delivered yet", question=self._place.nonce, error=described)
        else:
            log.warning("a finished reply is not tried any more", question=self._place.nonce, error=described)


def _opening(place: Place) -> str:
    """The line above an answer that goes to direct messages."""
    text = _("-# I may not write in {channel}, so I answer here.").format(channel=f"<#{place.channel_id}>")
    return f"{text}\n"


def _is_final(error: Exception) -> bool:
    """Whether another attempt would be refused as well."""
    if isinstance(error, ChannelForbidden | discord.Forbidden | discord.NotFound):
        return True
    return isinstance(error, discord.HTTPException) and error.code in _REFUSALS
