"""Tells members which replies will not come: those that a crashed process was writing.

Their messages still say "thinking…" or half an answer. They are edited through the interaction tokens that the database
keeps for this purpose.
"""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime

import discord
import structlog
from discord.ext import commands
from discord.http import Route

from bot.discord_app.delivery import DISCORD_ERRORS, NO_MENTIONS, describe_error
from bot.discord_app.error_messages import log_database_errors
from models.database import Database
from models.queries.recovery import cut_off_replies, forget_reply_token
from models.types import CutOffReply

log = structlog.get_logger(__name__)

INTERRUPTED = "I was restarted while I was writing this answer. Please ask again."
# Seconds before the first looks: another process may crash, or the database come back, shortly after the start.
_DELAYS = (0.0, 5.0, 20.0)
_INTERVAL = 30.0  # seconds between the later ones: what another process left half said is ended within a minute


class InterruptedReplies(commands.Cog):
    """Edits the messages of interrupted replies, for as long as the bot runs. Failures are logged and tried again."""

    def __init__(self, bot: commands.Bot, database: Database) -> None:
        self._bot = bot
        self._database = database
        self._task: asyncio.Task[None] | None = None

    async def cog_load(self) -> None:
        """Start looking for interrupted replies, in the background."""
        self._task = asyncio.create_task(self._edit_all(), name="interrupted-replies")

    async def cog_unload(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()

    async def _edit_all(self) -> None:
        for seconds in itertools.chain(_DELAYS, itertools.repeat(_INTERVAL)):
            await asyncio.sleep(seconds)
            for reply in await self._interrupted():
                if await self._edit(reply):
                    await self._forget(reply)

    async def _interrupted(self) -> tuple[CutOffReply, ...]:
        found: tuple[CutOffReply, ...] = ()
        with log_database_errors("find interrupted replies"):
            async with self._database.read() as session:
                found = await cut_off_replies(session, now=datetime.now(UTC))
        return found

    async def _forget(self, reply: CutOffReply) -> None:
        with log_database_errors("forget a reply token", turn=reply.turn_id):
            await self._database.run(lambda session: forget_reply_token(session, turn_id=reply.turn_id))

    async def _edit(self, reply: CutOffReply) -> bool:
        """Whether this message needs no further attempt: it was edited, or never can be."""
        if reply.application_id is None:
            return True
        route = Route(
            "PATCH",
            "/webhooks/{webhook_id}/{webhook_token}/messages/@original",
            webhook_id=reply.application_id,
            webhook_token=reply.reply_token,
        )
        body = {"content": INTERRUPTED, "components": [], "allowed_mentions": NO_MENTIONS.to_dict()}
        try:
            await self._bot.http.request(route, json=body)
        except DISCORD_ERRORS as error:
            log.info("an interrupted reply could not be edited", turn=reply.turn_id, error=describe_error(error))
            return isinstance(error, discord.HTTPException) and error.status in (400, 401, 403, 404)
        return True
