"""What admins delete in their guild, batch by batch, and how conversations come back within some minutes.

Knows the queries and the engine's cache; who may delete, and how it is confirmed, is decided by the caller.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

from bot.guilds.privacy import PrivacyService
from bot.storage import translate_database_errors
from models import queries as all_queries
from models.database import Database, Work
from models.maintenance.vacuum import release_space
from models.queries.administration import purges as queries
from models.queries.memory.forgetting import forget_guild_before
from models.types import DialogKey, PurgeCounts, PurgeScope

BATCH = 200
"""Rows in one transaction."""
UNDO_WITHIN = queries.UNDO_WITHIN


class Purges:
    """The deletions of every guild in one database."""

    def __init__(self, database: Database, privacy: PrivacyService) -> None:
        self._database = database
        self._privacy = privacy

    async def count(self, key: DialogKey, scope: PurgeScope) -> PurgeCounts:
        """How much a purge of this scope would delete in the key's guild."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.count_purge(session, key=key, scope=scope)

    async def run(self, key: DialogKey, scope: PurgeScope, counts: PurgeCounts) -> int | None:
        """Delete what is in the scope; the key's member does it. Return the id for `undo`, None if nothing comes back.

        The audit log has it first, with what was counted: a process that dies in the middle leaves a record.
        """
        now = datetime.now(UTC)
        with translate_database_errors():
            await self._record(key, scope, counts, now)
            if scope.has("memory"):
                if scope.older_than is None:  # nor is it written anew from what was said before
                    await self._database.run(partial(forget_guild_before, key=key, member_id=scope.member_id, now=now))
                await self._until_done(partial(queries.delete_notes, key=key, scope=scope, limit=BATCH))
            if scope.has("personas"):
                await self._until_done(partial(queries.delete_personas, key=key, scope=scope, limit=BATCH))
            purge_id = await self._hide(key, scope, now) if scope.has("conversations") else None
            await release_space(self._database)
        if scope.member_id is None:
            await self._privacy.erase_prompts_of_guild(key.guild_id)
        else:
            await self._privacy.erase_prompts_of_member(key.guild_id, scope.member_id)
        return purge_id

    async def undo(self, key: DialogKey, purge_id: int) -> int | None:
        """Bring back the conversations of a purge in the key's guild; return how many, None if it is too late."""
        now = datetime.now(UTC)
        with translate_database_errors():
            if not await self._database.run(partial(queries.keep_purge, key=key, purge_id=purge_id, now=now)):
                return None
            back = await self._until_done(partial(queries.bring_back, key=key, purge_id=purge_id, now=now, limit=BATCH))
            await self._database.run(partial(queries.end_purge, key=key, purge_id=purge_id))
            await self._database.run(
                lambda session: all_queries.record_audit(
                    session, key=key, actor_id=key.user_id, action="purge.undo", details={"dialogs": back}, now=now
                )
            )
        return back

    async def _hide(self, key: DialogKey, scope: PurgeScope, now: datetime) -> int | None:
        purge_id = await self._database.run(partial(queries.begin_purge, key=key, now=now))
        hidden = await self._until_done(
            partial(queries.hide_conversations, key=key, scope=scope, purge_id=purge_id, now=now, limit=BATCH)
        )
        if hidden:
            return purge_id
        await self._database.run(partial(queries.end_purge, key=key, purge_id=purge_id))
        return None

    async def _record(self, key: DialogKey, scope: PurgeScope, counts: PurgeCounts, now: datetime) -> None:
        days = None if scope.older_than is None else (scope.counted_at - scope.older_than).days
        counted = {name: number for name, number in asdict(counts).items() if number}
        await self._database.run(
            lambda session: all_queries.record_audit(
                session,
                key=key,
                actor_id=key.user_id,
                target_id=scope.member_id,
                action="purge",
                details={"what": scope.kind, "older_than_days": days, **counted},
                now=now,
            )
        )

    async def _until_done(self, work: Work[int]) -> int:
        """Repeat a batch, each in a transaction of its own, until it changes no row; return the sum."""
        total = 0
        while count := await self._database.run(work):
            total += count
        return total
