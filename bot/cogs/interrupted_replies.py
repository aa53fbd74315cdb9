"""Edits the messages of replies that a crashed process left unfinished, to say that they were interrupted.

Such a message still shows "thinking…" or a part of the reply. It is edited with the interaction token that the database
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
from models.queries.recovery import forget_reply_token, interrupted_replies, waits_for_edit
from models.types import InterruptedReply

log = structlog.get_logger(__name__)

INTERRUPTED = "I was restarted while I was writing this answer. Please ask again."
# Seconds before each attempt: shortly after the start another process may crash, or the database may come back.
_DELAYS = (0.0, 5.0, 20.0)
_INTERVAL = 10.0  # seconds between the later ones


class InterruptedReplies(commands.Cog):
    """Edits the messages of interrupted replies while the bot runs. Logs failures and tries again."""

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
                if await self._still_waits(reply) and await self._edit(reply):
                    await self._forget(reply)

    async def _interrupted(self) -> tuple[InterruptedReply, ...]:
        found: tuple[InterruptedReply, ...] = ()
        with log_database_errors("find interrupted replies"):
            async with self._database.read() as session:
                found = await interrupted_replies(session, now=datetime.now(UTC))
        return found

    async def _still_waits(self, reply: InterruptedReply) -> bool:
        """Look again just before the edit: with many replies to edit, the last one may take its turn much later."""
        waits = False
        with log_database_errors("look at an interrupted reply", turn=reply.turn_id):
            async with self._database.read() as session:
                waits = await waits_for_edit(session, turn_id=reply.turn_id)
        return waits

    async def _forget(self, reply: InterruptedReply) -> None:
        with log_database_errors("forget a reply token", turn=reply.turn_id):
            await self._database.run(lambda session: forget_reply_token(session, turn_id=reply.turn_id))

    async def _edit(self, reply: InterruptedReply) -> bool:
        """Edit the message. Returns False if a later attempt may succeed where this one failed."""
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
