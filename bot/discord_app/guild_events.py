"""What the gateway tells that the dialog log must know, and what a crash left standing on Discord.

Guilds that came and went, and waiting messages of replies that a dead process was writing. None of it may fail the
bot: it is logged, and the next start or the next event repairs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import discord
import structlog
from discord.http import Route

from bot.discord_app.delivery import FAILURES, describe
from bot.errors import BotError
from bot.storage import translate_database_errors
from models.database import Database
from models.queries.guilds import guild_joined, guild_removed, reconcile_guilds
from models.queries.recovery import cut_off_replies, forget_reply_token
from models.types import CutOffReply

log = structlog.get_logger(__name__)

CUT_OFF = "I was restarted while I was writing this answer. Please ask again."
_LOOKS = (0.0, 5.0, 20.0)  # a process that dies beside us, or a database that is not back yet, is seen a little later
T = TypeVar("T")


class GuildEvents:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def guild_removed(self, guild_id: int) -> None:
        """A guild threw the bot out. An outage is not a removal: discord.py keeps the two apart."""
        ended = await self._quietly("removed", lambda now: self._database.run(
            lambda session: guild_removed(session, guild_id=guild_id, now=now)
        ))  # fmt: skip
        log.info("the bot was removed from a guild", guild=guild_id, dialogs_ended=ended)

    async def guild_joined(self, guild_id: int) -> None:
        back = await self._quietly("joined", lambda now: self._database.run(
            lambda session: guild_joined(session, guild_id=guild_id, now=now)
        ))  # fmt: skip
        log.info("the bot is in a guild", guild=guild_id, purge_cancelled=bool(back))

    async def guilds_present(self, guild_ids: Collection[int]) -> None:
        """All guilds that the bot is in, as READY lists them."""
        gone = await self._quietly("present", lambda now: self._database.run(
            lambda session: reconcile_guilds(session, present=guild_ids, now=now)
        ))  # fmt: skip
        if gone:
            log.info("the bot was removed from guilds while it was away", guilds=gone)

    async def edit_interrupted_replies(self, client: discord.Client) -> None:
        """Edit the waiting messages of replies that a crash cut off."""
        for seconds in _LOOKS:
            await asyncio.sleep(seconds)
            for reply in await self._quietly("cut off", self._cut_off) or ():
                if await _edit(client, reply):
                    await self._quietly("forget", partial(self._forget, reply.turn_id))

    async def _cut_off(self, now: datetime) -> tuple[CutOffReply, ...]:
        async with self._database.read() as session:
            return await cut_off_replies(session, now=now)

    async def _forget(self, turn_id: int, _: datetime) -> None:
        await self._database.run(lambda session: forget_reply_token(session, turn_id=turn_id))

    async def _quietly(self, what: str, work: Callable[[datetime], Awaitable[T]]) -> T | None:
        try:
            with translate_database_errors():
                return await work(datetime.now(UTC))
        except BotError as error:
            log.error("the dialog log could not be told", what=what, reason=error.reason)
            return None


async def _edit(client: discord.Client, reply: CutOffReply) -> bool:
    """Whether this message is dealt with: edited, or beyond reach for ever."""
    if reply.application_id is None:
        return True
    route = Route(
        "PATCH",
        "/webhooks/{webhook_id}/{webhook_token}/messages/@original",
        webhook_id=reply.application_id,
        webhook_token=reply.reply_token,
    )
    nobody = discord.AllowedMentions.none().to_dict()
    try:
        await client.http.request(route, json={"content": CUT_OFF, "components": [], "allowed_mentions": nobody})
    except FAILURES as error:
        log.info("a waiting message could not be edited", turn=reply.turn_id, error=describe(error))
        return isinstance(error, discord.HTTPException) and error.status in (400, 401, 403, 404)
    return True
