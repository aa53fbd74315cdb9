"""Keeps the bot's own profile in guilds as their persona is, whichever process it was changed by."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from discord.ext import commands

from bot.discord_app.error_messages import log_database_errors
from bot.discord_app.rest.profile_api import ProfileApi
from bot.guilds.personas import PersonaService

log = structlog.get_logger(__name__)

_INTERVAL = 30.0  # seconds; what this process changes itself is looked at at once


class ProfileJob(commands.Cog):
    """Looks after the profiles of the guilds that this process serves."""

    def __init__(self, bot: commands.Bot, personas: PersonaService, api: ProfileApi) -> None:
        self._bot = bot
        self._personas = personas
        self._api = api
        self._task: asyncio.Task[None] | None = None

    async def cog_load(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.create_task(self._run(), name="profiles")

    async def cog_unload(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        await self._bot.wait_until_ready()
        while True:
            self._personas.changed.clear()
            try:
                with log_database_errors("look after profiles"):
                    await self._update_all()
            except Exception as error:
                log.error("profiles could not be looked after", error=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._personas.changed.wait()

    async def _update_all(self) -> None:
        for guild_id in await self._personas.profiles.guilds():
            guild = self._bot.get_guild(guild_id)
            if guild is not None and not guild.unavailable:
                await self._personas.profiles.update(guild_id, self._api.send)
