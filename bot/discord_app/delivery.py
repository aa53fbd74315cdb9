"""How text reaches Discord: the response to an interaction, its follow-ups, and the channel once its token is dead.

Knows discord.py's objects and Discord's error codes. Knows nothing of what a reply says or when it is edited.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import Iterator, Sequence

import aiohttp
import discord
import structlog

from bot.discord_app.message_sink import MessageDeleted, SinkUnreachable
from bot.discord_app.rest.forbidden_channels import ChannelForbidden
from bot.discord_app.rest.message_data import FILE_NAME, NO_MENTIONS
from bot.discord_app.rest.request_pace import Turn, Urgency
from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.telemetry.tracing import mark

log = structlog.get_logger(__name__)

DISCORD_ERRORS = (discord.HTTPException, aiohttp.ClientError, OSError)
"""What a request to Discord may raise; OSError includes TimeoutError."""
_UNKNOWN_MESSAGE = 10008
_EPHEMERAL = "ephemeral"  # key in Interaction.extras: how the interaction was deferred
_RECEIVED_AT = "received_at"  # the same: when it came, on this host's monotonic clock
_DEFER_TIMEOUT = 10.0  # seconds; Discord itself allows 3, this bounds a connection that hangs


def note_receipt(interaction: discord.Interaction) -> None:
    """Note when an interaction came: Discord's own time of it is that of another clock."""
    interaction.extras[_RECEIVED_AT] = time.monotonic()


def seconds_since_receipt(interaction: discord.Interaction) -> float:
    """How long this interaction has been waiting here."""
    now = time.monotonic()
    return now - float(interaction.extras.get(_RECEIVED_AT, now))


async def defer(interaction: discord.Interaction, *, ephemeral: bool) -> bool:
    """Defer, as the first await of every slow command.

    Returns False when it was too late or another process was faster: the caller must then do nothing.
    """
    return await _defer(interaction, ephemeral=ephemeral, thinking=True)


def is_ephemeral(interaction: discord.Interaction) -> bool:
    """Whether the response that was deferred is ephemeral, because we asked for it or because Discord decided so.

    Discord hides public responses from others where the member may not use applications of their own.
    """
    return bool(interaction.extras.get(_EPHEMERAL))


async def defer_click(interaction: discord.Interaction) -> bool:
    """Defer the click on a button and leave its message as it is, as the first await of every slow handler.

    Returns False when it was too late or another process was faster: the caller must then not respond.
    """
    return await _defer(interaction, ephemeral=False, thinking=False)


async def _defer(interaction: discord.Interaction, *, ephemeral: bool, thinking: bool) -> bool:
    try:
        async with asyncio.timeout(_DEFER_TIMEOUT):
            response = await interaction.response.defer(ephemeral=ephemeral, thinking=thinking)
        hidden = response is not None and response.is_ephemeral()
    except (KeyError, TypeError):
        if not interaction.response.is_done():
            raise
        hidden = False  # Discord accepted it; discord.py could not parse the response body
    except DISCORD_ERRORS as error:
        log.warning("an interaction could not be deferred", interaction=interaction.id, error=describe_error(error))
        return False
    mark("acknowledged")
    if thinking:
        interaction.extras[_EPHEMERAL] = ephemeral or hidden
    return True


async def send_error(interaction: discord.Interaction, text: str) -> None:
    """Show an error to this member only, and delete a public response that is still pending ("thinking…")."""
    try:
        if not interaction.response.is_done():
            await interaction.response.send_message(text, ephemeral=True, allowed_mentions=NO_MENTIONS)
            return
        if interaction.extras.get(_EPHEMERAL):
            await interaction.edit_original_response(
                content=text, view=None, attachments=[], allowed_mentions=NO_MENTIONS
            )
            return
        if interaction.response.type is discord.InteractionResponseType.deferred_channel_message:
            # A public defer makes the response public: an ephemeral text needs a follow-up of its own.
            with contextlib.suppress(*DISCORD_ERRORS):
                await interaction.delete_original_response()
        await interaction.followup.send(text, ephemeral=True, allowed_mentions=NO_MENTIONS)
    except DISCORD_ERRORS as error:
        log.warning("an error could not be shown", interaction=interaction.id, error=describe_error(error))


def describe_error(error: BaseException) -> str:
    """An error for the log without its message, which may quote a URL that contains a token."""
    if isinstance(error, discord.HTTPException):
        return f"{error.status} {error.code} {type(error).__name__}"
    return type(error).__name__


class InteractionSink:
    """A `MessageSink`: the response to one deferred interaction (message 0) and its follow-ups (1, 2, …)."""

    def __init__(self, interaction: discord.Interaction, *, ephemeral: bool) -> None:
        self._interaction = interaction
        self._ephemeral = ephemeral
        self._followups: dict[int, discord.WebhookMessage] = {}

    def turn(self, index: int, urgency: Urgency) -> contextlib.nullcontext[None]:
        """Nothing to wait for: requests with an interaction's token are counted apart."""
        return contextlib.nullcontext()

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
        """Edit the response or a follow-up, or send the follow-up if it does not exist yet."""
        with sink_errors():
            if index == 0:
                await self._interaction.edit_original_response(
                    content=text, view=None, attachments=_files(file), allowed_mentions=NO_MENTIONS
                )
            elif index in self._followups:
                await self._followups[index].edit(content=text, attachments=_files(file), allowed_mentions=NO_MENTIONS)
            else:
                self._followups[index] = await self._interaction.followup.send(
                    text,
                    files=_files(file),
                    ephemeral=self._ephemeral,
                    allowed_mentions=NO_MENTIONS,
                    suppress_embeds=True,
                    wait=True,
                )

    async def delete(self, index: int) -> None:
        """Delete a follow-up, if it was sent."""
        message = self._followups.pop(index, None)
        if message is not None:
            with contextlib.suppress(discord.HTTPException):
                await message.delete()

    async def clear(self) -> None:
        """Delete the follow-ups of a reply that failed."""
        for index in list(self._followups):
            await self.delete(index)

    async def postpone(self) -> bool:
        """False: this is not recorded, so no one else could show it later."""
        return False

    async def send_fallback(self, messages: Sequence[str], file: str | None, *, first: int = 0) -> None:
        """Send plain messages to the channel, or to the member alone if the reply was ephemeral."""
        interaction = self._interaction
        target: discord.abc.Messageable | None
        channel = interaction.channel if isinstance(interaction.channel, discord.abc.Messageable) else None
        if self._ephemeral:
            target = interaction.user  # a user install does not let the bot write in the channel
        elif interaction.guild_id is None:
            target = channel or interaction.user
        else:
            target = channel if may_send(interaction) else None
        if target is None:
            log.warning("a finished reply could not be delivered: no permission to send", interaction=interaction.id)
            return
        mention = f"{interaction.user.mention} " if interaction.guild_id is not None and not self._ephemeral else ""
        if mention and utf16_length(mention + messages[0]) > MESSAGE_LIMIT:
            messages, mention = (mention, *messages), ""
        try:
            for position, text in enumerate(messages):
                await target.send(
                    (mention if position == 0 else "") + text,
                    files=_files(file) if position == len(messages) - 1 else [],
                    allowed_mentions=NO_MENTIONS,
                    suppress_embeds=True,
                )
        except DISCORD_ERRORS as error:
            log.warning(
                "a finished reply could not be delivered", interaction=interaction.id, error=describe_error(error)
            )


def may_send(interaction: discord.Interaction) -> bool:
    """Whether the bot may post in the channel of this interaction, as far as Discord says."""
    allowed = interaction.app_permissions
    if not allowed.value or interaction.guild_id is None:
        return True  # Discord did not say: try
    thread = isinstance(interaction.channel, discord.Thread)
    return allowed.view_channel and (allowed.send_messages_in_threads if thread else allowed.send_messages)


def _files(text: str | None) -> list[discord.File]:
    return [] if text is None else [discord.File(io.BytesIO(text.encode()), FILE_NAME)]


@contextlib.contextmanager
def sink_errors() -> Iterator[None]:
    """Translate Discord's permanent refusals into the errors of `MessageSink`; others pass, and may be retried."""
    try:
        yield
    except discord.HTTPException as error:
        if error.status == 404 and error.code == _UNKNOWN_MESSAGE:
            raise MessageDeleted(describe_error(error)) from None
        if error.status in (400, 401, 403, 404):
            raise SinkUnreachable(describe_error(error)) from None
        raise
    except ChannelForbidden:
        raise SinkUnreachable("the bot may not write in this channel") from None
