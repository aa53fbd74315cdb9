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
from models.types import DialogKey, ProfileProblem, SentProfile, WantedProfile

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

    async def of_webhooks(self, guild_id: int) -> WantedProfile:
        """The guild's persona, and the picture that the bot's webhooks have there."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await wanted_profile(session, key=DialogKey(guild_id, 0), face="webhook")

    async def problem(self, guild_id: int) -> ProfileProblem | None:
        """What Discord had against the present profile."""
        with translate_database_errors():
            async with self._database.read() as session:
                sent = await sent_profile(session, key=DialogKey(guild_id, 0))
        return None if sent is None else sent.problem

    async def update(self, guild_id: int, send: Send, *, again: bool = False) -> Outcome:
        """Send the profile of a guild if it is another one than before, and not too soon after the last one.

        `again`: send it even if it is the same: an admin may have mended what Discord refused, or have renamed the bot.
        """
        key, now = DialogKey(guild_id, 0), self._clock()
        with translate_database_errors():
            async with self._database.read() as session:
                wanted = await wanted_profile(session, key=key)
                before = await sent_profile(session, key=key)
            if (outcome := _without_sending(before, wanted, now, again=again)) is not None:
                return outcome
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


def _without_sending(
    before: SentProfile | None, wanted: WantedProfile, now: datetime, *, again: bool
) -> Outcome | None:
    """The outcome where nothing is to be sent now; None where this profile is."""
    if before is None:
        return None if wanted.fingerprint else "same"
    recent = now - before.sent_at < INTERVAL
    refused = before.problem if before.problem in ("forbidden", "refused") else None
    if before.fingerprint == wanted.fingerprint:
        if refused:
            return None if again else refused
        if before.problem is None and (recent or not again):
            return "same"
    # What Discord refused has used up nothing of its limits.
    return "later" if recent and not refused else None
