"""How a reply reaches Discord: the answer to an interaction, its follow-ups, and the channel when those are dead.

Knows discord.py's objects and Discord's error numbers. Knows nothing of what a reply says, or when it is edited.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence

import aiohttp
import discord
import structlog
from discord.ui import View

from bot.discord_app.message_split import LIMIT, utf16_length
from bot.discord_app.streamed_reply import MessageDeleted, SinkUnreachable

log = structlog.get_logger(__name__)

NO_MENTIONS = discord.AllowedMentions.none()
FILE_NAME = "answer.md"
UNKNOWN_MESSAGE = 10008
_PRIVATE = "private"  # how an interaction was acknowledged, in its extras
_ACK_PATIENCE = 10.0  # an acknowledgement that takes longer than Discord's 3 s has failed; this one bounds a dead line

FAILURES = (discord.HTTPException, aiohttp.ClientError, OSError)  # OSError includes TimeoutError


async def acknowledge(interaction: discord.Interaction, *, private: bool) -> bool:
    """Defer, as the first await of a slow command. False: it was too late, or another process was first; do nothing."""
    try:
        async with asyncio.timeout(_ACK_PATIENCE):
            await interaction.response.defer(ephemeral=private, thinking=True)
    except (KeyError, TypeError):
        if not interaction.response.is_done():
            raise
        # Accepted, with an answer that discord.py cannot read; there is nothing in it that we need.
    except FAILURES as error:
        log.warning("an interaction could not be acknowledged", interaction=interaction.id, error=describe(error))
        return False
    interaction.extras[_PRIVATE] = private
    return True


async def send_error(interaction: discord.Interaction, text: str) -> None:
    """Say something to this one person. What stands publicly as the answer so far, such as "thinking…", goes away."""
    try:
        if not interaction.response.is_done():
            await interaction.response.send_message(text, ephemeral=True, allowed_mentions=NO_MENTIONS)
            return
        if interaction.extras.get(_PRIVATE):
            await interaction.edit_original_response(
                content=text, view=None, attachments=[], allowed_mentions=NO_MENTIONS
            )
            return
        if interaction.response.type is discord.InteractionResponseType.deferred_channel_message:
            # An acknowledgement fixes who sees the answer: a private sentence needs a message of its own.
            with contextlib.suppress(*FAILURES):
                await interaction.delete_original_response()
        await interaction.followup.send(text, ephemeral=True, allowed_mentions=NO_MENTIONS)
    except FAILURES as error:
        log.warning("somebody could not be told", interaction=interaction.id, text=text, error=describe(error))


def describe(error: BaseException) -> str:
    """An error without what it may quote: Discord's URLs contain tokens."""
    if isinstance(error, discord.HTTPException):
        return f"{error.status} {error.code} {type(error).__name__}"
    return type(error).__name__


class InteractionSink:
    """The messages that answer one interaction."""

    def __init__(self, interaction: discord.Interaction, *, private: bool, live_view: Callable[[], View] | None = None):
        self._interaction = interaction
        self._private = private
        self._live_view = live_view
        self._followups: dict[int, discord.WebhookMessage] = {}

    async def show(self, index: int, text: str, *, live: bool, file: str | None = None) -> None:
        with _translated_errors():
            if index == 0:
                view = self._live_view() if live and self._live_view else None
                await self._interaction.edit_original_response(
                    content=text, view=view, attachments=_files(file), allowed_mentions=NO_MENTIONS
                )
            elif index in self._followups:
                await self._followups[index].edit(content=text, attachments=_files(file), allowed_mentions=NO_MENTIONS)
            else:
                self._followups[index] = await self._interaction.followup.send(
                    text,
                    files=_files(file),
                    ephemeral=self._private,
                    allowed_mentions=NO_MENTIONS,
                    suppress_embeds=True,
                    wait=True,
                )

    async def delete(self, index: int) -> None:
        message = self._followups.pop(index, None)
        if message is not None:
            with contextlib.suppress(discord.HTTPException):
                await message.delete()

    async def clear(self) -> None:
        """Take back the follow-ups of a reply that failed."""
        for index in list(self._followups):
            await self.delete(index)

    async def send_fallback(self, messages: Sequence[str], file: str | None) -> None:
        """As plain messages where the question was asked; a private reply only to the person alone."""
        interaction = self._interaction
        target: discord.abc.Messageable | None
        here = interaction.channel if isinstance(interaction.channel, discord.abc.Messageable) else None
        if interaction.guild_id is None:
            target = here or interaction.user
        elif self._private:
            target = interaction.user
        else:
            target = here if _may_send(interaction) else None
        if target is None:
            log.warning("a finished reply could not be delivered: no permission to send", interaction=interaction.id)
            return
        lead = f"{interaction.user.mention} " if interaction.guild_id is not None and not self._private else ""
        if lead and utf16_length(lead + messages[0]) > LIMIT:
            messages, lead = (lead, *messages), ""
        try:
            for position, text in enumerate(messages):
                await target.send(
                    (lead if position == 0 else "") + text,
                    files=_files(file) if position == len(messages) - 1 else [],
                    allowed_mentions=NO_MENTIONS,
                    suppress_embeds=True,
                )
        except FAILURES as error:
            log.warning("a finished reply could not be delivered", interaction=interaction.id, error=describe(error))


def _may_send(interaction: discord.Interaction) -> bool:
    allowed = interaction.app_permissions
    if not allowed.value:
        return True  # not told: trying does no harm
    thread = isinstance(interaction.channel, discord.Thread)
    return allowed.view_channel and (allowed.send_messages_in_threads if thread else allowed.send_messages)


def _files(text: str | None) -> list[discord.File]:
    return [] if text is None else [discord.File(io.BytesIO(text.encode()), FILE_NAME)]


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Discord's refusals in the terms of `streamed_reply`; what may pass by itself goes through unchanged."""
    try:
        yield
    except discord.HTTPException as error:
        if error.status == 404 and error.code == UNKNOWN_MESSAGE:
            raise MessageDeleted(describe(error)) from None
        if error.status in (400, 401, 403, 404):
            raise SinkUnreachable(describe(error)) from None
        raise
