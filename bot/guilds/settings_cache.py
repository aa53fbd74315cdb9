"""What the managers of a guild chose for it: read with every message, changed rarely, within the operator's limits.

The last known choice of a guild is kept for a while, so that whoever must answer at once need not wait for the
database. Another process on the same database sees a change within `FRESH` seconds. Knows no Discord: who may change
something is the front-end's business.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from bot.chat.keyed_locks import KeyedLocks
from bot.errors import AboveLimit, BotError
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.types import DIRECT_MESSAGES, DialogKey, GuildSettings

FRESH = 30.0
MAX_LISTED = 100
"""Channels, or roles, on the lists of one guild."""
_REMEMBERED_GUILDS = 10_000
_LIMITED = ("max_chat_logs", "max_reply_tokens", "retention_days")
"""Where the operator's setting of the same name is both the default and the most that a guild may choose."""

Change = Callable[[GuildSettings], GuildSettings]


class GuildSettingsCache:
    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._known: OrderedDict[int, tuple[float, GuildSettings]] = OrderedDict()
        self._reading: dict[int, asyncio.Task[GuildSettings]] = {}
        self._changes = 0
        self._changing: KeyedLocks[int] = KeyedLocks()

    def known(self, guild_id: int) -> GuildSettings | None:
        """What this guild chose, if that is known without asking the database."""
        if guild_id == DIRECT_MESSAGES:
            return GuildSettings()
        at, chosen = self._known.get(guild_id, (0.0, None))
        return chosen if time.monotonic() - at < FRESH else None

    async def get(self, guild_id: int) -> GuildSettings:
        """What this guild chose, not older than `FRESH` seconds.

        One reads for all who ask meanwhile, and they go on in the order in which they asked: messages of one dialog
        are answered in theirs.
        """
        if (chosen := self.known(guild_id)) is not None:
            return chosen
        if (reading := self._reading.get(guild_id)) is None:
            reading = self._reading[guild_id] = asyncio.create_task(self.read(guild_id))
            reading.add_done_callback(lambda _: self._reading.pop(guild_id))
        return await asyncio.shield(reading)

    async def read(self, guild_id: int) -> GuildSettings:
        """What this guild chose, from the database."""
        changes = self._changes
        with translate_database_errors():
            async with self._database.read() as session:
                found = await queries.guild_settings(session, key=DialogKey(guild_id, 0))
        if changes == self._changes:  # else it may be what a change has replaced meanwhile
            self._remember(guild_id, found)
        return found

    async def change(self, guild_id: int, change: Change, *, actor_id: int) -> GuildSettings:
        """Change what a guild chose, and note it in the audit log. Raises AboveLimit; then nothing is changed."""

        def checked(before: GuildSettings) -> GuildSettings:
            after = change(before)
            self._check(before, after)
            return after

        now = datetime.now(UTC)
        async with self._changing.hold(guild_id):  # so that the last one stored is the last one remembered
            try:
                with translate_database_errors():
                    after = await self._database.run(
                        lambda session: queries.change_guild_settings(
                            session, key=DialogKey(guild_id, actor_id), change=checked, actor_id=actor_id, now=now
                        )
                    )
            finally:
                self._changes += 1
                self._known.pop(guild_id, None)
            self._remember(guild_id, after)
        return after

    def _check(self, before: GuildSettings, after: GuildSettings) -> None:
        for name in _LIMITED:
            value, limit = getattr(after, name), getattr(self._settings, name)
            # What was allowed when it was chosen must not stand in the way of another change.
            if value is not None and value > limit and value != getattr(before, name):
                raise AboveLimit(name, limit, value)
        if len(after.channels) > MAX_LISTED or len(after.roles) > MAX_LISTED:
            raise BotError(f"There is room for {MAX_LISTED} channels and {MAX_LISTED} roles on these lists.")

    def _remember(self, guild_id: int, chosen: GuildSettings) -> None:
        self._known[guild_id] = (time.monotonic(), chosen)
        self._known.move_to_end(guild_id)
        if len(self._known) > _REMEMBERED_GUILDS:
            self._known.popitem(last=False)
