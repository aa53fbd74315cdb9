"""Keeps the database informed of the guilds that the bot is in, as the gateway reports them."""

from __future__ import annotations

from datetime import UTC, datetime

import discord
import structlog
from discord.ext import commands

from bot.discord_app.error_messages import log_database_errors
from bot.guilds.privacy import PrivacyService
from models.database import Database
from models.queries.tenants.guilds import guild_joined, guild_removed, reconcile_guilds
from models.types import Shard

log = structlog.get_logger(__name__)


class GuildEvents(commands.Cog):
    """Listens for guilds that add or remove the bot. A failure is logged, and the next READY repairs it."""

    def __init__(self, bot: commands.Bot, database: Database, privacy: PrivacyService) -> None:
        self._bot = bot
        self._database = database
        self._privacy = privacy
        self._removed: set[int] = set()  # guilds removed since the start

    @commands.Cog.listener()
    async def on_ready(self) -> None:
        """Compare the database with the guilds of this process's shard that the bot is in, as READY lists them.

        A guild with an outage is on the list. Those of other shards are not, and are none of this process's business.
        """
        shard = Shard(self._bot.shard_id or 0, self._bot.shard_count or 1)
        log.info("on Discord", guilds=len(self._bot.guilds), shard=f"{shard.index + 1} of {shard.count}")
        present, removed = {guild.id for guild in self._bot.guilds}, tuple[int, ...]()
        with log_database_errors("reconcile guilds"):
            removed = await self._database.run(
                lambda session: reconcile_guilds(session, present=present, shard=shard, now=datetime.now(UTC))
            )
            if removed:
                log.info("the bot was removed from guilds while it was away", guilds=removed)
        for guild_id in removed:
            await self._privacy.erase_prompts_of_guild(guild_id)

    @commands.Cog.listener()
    async def on_guild_join(self, guild: discord.Guild) -> None:
        """Cancel the deletion of the guild's data, if it was removed before."""
        self._removed.discard(guild.id)
        with log_database_errors("guild joined", guild=guild.id):
            returned = await self._database.run(
                lambda session: guild_joined(session, guild_id=guild.id, now=datetime.now(UTC))
            )
            log.info("the bot is in a guild", guild=guild.id, purge_cancelled=bool(returned))

    @commands.Cog.listener()
    async def on_guild_available(self, guild: discord.Guild) -> None:
        """Treat a removed guild as joined again, although Discord reports the end of an outage."""
        if guild.id in self._removed:
            await self.on_guild_join(guild)

    @commands.Cog.listener()
    async def on_guild_remove(self, guild: discord.Guild) -> None:
        """End the guild's dialogs. discord.py reports an outage as another event."""
        self._removed.add(guild.id)
        with log_database_errors("guild removed", guild=guild.id):
            ended = await self._database.run(
                lambda session: guild_removed(session, guild_id=guild.id, now=datetime.now(UTC))
            )
            log.info("the bot was removed from a guild", guild=guild.id, dialogs_ended=ended)
        await self._privacy.erase_prompts_of_guild(guild.id)
