"""When the bot's own profile in a guild changes: it shows the guild's persona where the guild wants that.

A change is sent at most every INTERVAL, the newest one: what changed meanwhile is sent together. Every attempt is
recorded before it is made, so that a crash or another process leaves nothing unknown. Knows no Discord: `send` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

from bot.storage import translate_database_errors
from models.database import Database
from models.queries.tenants.profiles import (
    claim_profile,
    guilds_with_profile,
    profile_sent,
    sent_profile,
    wanted_profile,
)
from models.types import DialogKey, ProfileProblem, WantedProfile

INTERVAL = timedelta(minutes=5)
Outcome = Literal["same", "done", "later", "forbidden", "refused"]
Send = Callable[[int, WantedProfile], Awaitable[ProfileProblem | None]]
"""Sends a guild's profile to Discord; returns what Discord had against it."""


class GuildProfiles:
    """The profiles of all guilds in one database. Each method raises DatabaseUnavailable."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._clock = clock

    async def guilds(self) -> tuple[int, ...]:
        """The guilds in which something may have to change."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await guilds_with_profile(session)

    async def problem(self, guild_id: int) -> ProfileProblem | None:
        """What Discord had against the present profile."""
        with translate_database_errors():
            async with self._database.read() as session:
                sent = await sent_profile(session, key=DialogKey(guild_id, 0))
        return None if sent is None else sent.problem

    async def update(self, guild_id: int, send: Send, *, again: bool = False) -> Outcome:
        """Send the profile of a guild if it is another one than before, and not too soon after the last one.

        `again`: also if Discord refused this very one before; an admin may have changed that.
        """
        key, now = DialogKey(guild_id, 0), self._clock()
        with translate_database_errors():
            async with self._database.read() as session:
                wanted = await wanted_profile(session, key=key)
                before = await sent_profile(session, key=key)
            if before is None and not wanted.fingerprint:
                return "same"
            if before is not None and before.fingerprint == wanted.fingerprint:
                if before.problem is None:
                    return "same"
                if before.problem in ("forbidden", "refused") and not again:
                    return before.problem
            refused = before is not None and before.problem in ("forbidden", "refused")
            # What Discord refused has used up nothing of its limits.
            if before is not None and not refused and now - before.sent_at < INTERVAL:
                return "later"
            if not await self._database.run(
                lambda session: claim_profile(session, key=key, wanted=wanted, before=before, now=now)
            ):
                return "later"
        problem = await send(guild_id, wanted)
        with translate_database_errors():
            await self._database.run(lambda session: profile_sent(session, key=key, wanted=wanted, problem=problem))
        if problem is None:
            return "done"
        return problem if problem in ("forbidden", "refused") else "later"
