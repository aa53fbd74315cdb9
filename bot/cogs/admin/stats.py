"""/admin stats: a guild's use in numbers and as a picture."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import discord
import structlog

from bot.charts.usage_chart import ChartFailed, draw_usage
from bot.cogs.admin.part import AdminPart, begin, guild_key
from bot.cogs.admin.stats_text import all_days, alt_text, panels, stats_text
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.guilds.administration.figures import Figures
from bot.i18n.language import gettext as _

log = structlog.get_logger(__name__)


class Stats(AdminPart):
    """The figures of a guild."""

    def __init__(self, context: CommandContext, api: MessageApi, figures: Figures) -> None:
        super().__init__(context, api)
        self._figures = figures

    async def show(self, interaction: Interaction, days: int) -> None:
        """/admin stats."""
        if not await begin(interaction):
            return
        now = datetime.now(UTC)
        figures = await self._figures.of_guild(guild_key(interaction), days=days, now=now)
        by_day = all_days(figures, now.date(), days)
        text = stats_text(figures, by_day)
        files = []
        try:
            png = await draw_usage([each.day for each in by_day], panels(by_day))
            files.append(discord.File(io.BytesIO(png), "usage.png", description=alt_text(by_day)))
        except ChartFailed as error:
            log.warning("the picture of a guild's use could not be drawn", reason=str(error))
            text += "\n-# " + _("The picture could not be drawn this time.")
        await interaction.edit_original_response(content=text, attachments=files, allowed_mentions=NO_MENTIONS)
