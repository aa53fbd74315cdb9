"""What members have used of the present UTC day. Reads only; how much they may use is in `limits`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from bot.storage import translate_database_errors
from models.database import Database
from models.queries.tenants.policy import guild_day, load_policy
from models.types import DayUsed, DialogKey


class UsageReader:
    """Reads the usage of one database."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    async def of_member(self, key: DialogKey) -> DayUsed:
        """What the key's member has used today in the key's guild."""
        now = self._now()
        with translate_database_errors():
            async with self._database.read() as session:
                policy = await load_policy(session, key=key, now=now)
        return DayUsed(now.astimezone(UTC).date(), policy.messages_today, policy.tokens_today)

    async def of_guild(self, key: DialogKey) -> DayUsed:
        """What all members of the key's guild have used today."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await guild_day(session, key=key, day=self._now().astimezone(UTC).date())
