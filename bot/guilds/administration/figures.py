"""The use of a guild, for its admins."""

from __future__ import annotations

from datetime import datetime

from bot.storage import translate_database_errors
from models.database import Database
from models.queries.administration.figures import guild_figures
from models.types import DialogKey, GuildFigures


class Figures:
    """The figures of every guild in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_guild(self, key: DialogKey, *, days: int, now: datetime) -> GuildFigures:
        """The use of the key's guild in the last `days` UTC days."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await guild_figures(session, key=key, days=days, now=now)
