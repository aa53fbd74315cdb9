"""One cleanup run over a Database: many short transactions, so that chats get their turn between them.

Knows what is due and in which order; when to run and whether the clock can be trusted is the caller's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from models.database import Database
from models.maintenance.vacuum import release_space
from models.queries import recovery, retention
from models.queries.retention import Limits

# Rows a transaction: a purge of so many turns takes a few milliseconds, far from the 100 that a chat would notice.
BATCH = 50


@dataclass(slots=True)
class CleanupReport:
    """What a run did, or would do."""

    interrupted_turns: int = 0
    ended_dialogs: int = 0
    purged_dialogs_and_turns: int = 0
    purged_old_turns: int = 0
    purged_guild_rows: int = 0
    purged_guilds: int = 0
    forgotten_users: int = 0
    forgotten_bookkeeping: int = 0
    released_pages: int = 0
    longest_lock_ms: float = 0.0

    @property
    def deleted(self) -> int:
        return (
            self.purged_dialogs_and_turns + self.purged_old_turns + self.purged_guild_rows + self.forgotten_bookkeeping
        )

    def rows(self) -> tuple[tuple[str, int | float], ...]:
        return tuple((field.name, getattr(self, field.name)) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run at this moment would end, against what is open: the clock guard's evidence."""

    open_dialogs: int
    would_end: int


async def outlook(database: Database, *, limits: Limits, now: datetime) -> Outlook:
    async with database.read() as session:
        idle = await retention.idle_cutoffs(session, limits=limits, now=now)
        would_end = sum([await retention.count_idle(session, idle=condition) for condition in idle])
        return Outlook(await retention.count_open(session), would_end)


async def preview(database: Database, *, limits: Limits, now: datetime) -> CleanupReport:
    """The dry run: counts, and changes nothing."""
    report = CleanupReport()
    async with database.read() as session:
        report.interrupted_turns = len(await recovery.dead_turns(session, now=now))
        idle = await retention.idle_cutoffs(session, limits=limits, now=now)
        report.ended_dialogs = sum([await retention.count_idle(session, idle=condition) for condition in idle])
        kept = await retention.retentions(session, limits=limits, now=now)
        report.purged_dialogs_and_turns = sum(await retention.count_expired(session, kept=kept))
        for one in kept:
            report.purged_old_turns += len(await retention.old_turns(session, retention=one, limit=1_000_000))
        report.purged_guilds = len(await retention.removed_guilds(session, limits=limits, now=now))
    return report


async def clean(database: Database, *, limits: Limits, now: datetime, batch: int = BATCH) -> CleanupReport:
    """Does all that is due at `now`. Safe to stop anywhere and to run again, also beside another process's run."""
    report = CleanupReport()
    run = _Batches(database, report)
    report.interrupted_turns = await run.once(partial(recovery.interrupt_dead_turns, now=now))
    await run.until_done(partial(recovery.forget_expired_tokens, now=now, limit=batch))

    async with database.read() as session:
        idle = await retention.idle_cutoffs(session, limits=limits, now=now)
        kept = await retention.retentions(session, limits=limits, now=now)
        gone = await retention.removed_guilds(session, limits=limits, now=now)
    for condition in idle:
        report.ended_dialogs += await run.until_done(
            partial(retention.end_idle_dialogs, idle=condition, now=now, limit=batch)
        )
    for one in kept:
        report.purged_dialogs_and_turns += await run.until_done(
            partial(retention.purge_ended, retention=one, limit=batch)
        )
        report.purged_old_turns += await _purge_old_turns(database, run, one, batch)
    for guild_id in gone:
        report.purged_guild_rows += await run.until_done(partial(retention.purge_guild, guild_id=guild_id, limit=batch))
        report.purged_guilds += 1
    report.forgotten_bookkeeping = await run.until_done(partial(retention.forget_bookkeeping, now=now, limit=batch))
    if report.deleted:
        report.forgotten_users = await _forget_unused_users(run, batch)
        report.released_pages = await release_space(database)
    return report


async def _purge_old_turns(database: Database, run: _Batches, kept: retention.Retention, batch: int) -> int:
    total = 0
    while True:
        async with database.read() as session:
            ids = await retention.old_turns(session, retention=kept, limit=batch)
        if not ids:
            return total
        total += await run.once(partial(retention.delete_turns, turn_ids=ids))


async def _forget_unused_users(run: _Batches, batch: int) -> int:
    total = 0
    place: list[int | None] = [-1]

    async def step(session: AsyncSession) -> int:
        start = place[0]
        if start is None:
            return 0
        count, place[0] = await retention.forget_unused_users(session, after=start, limit=batch)
        return count

    while place[0] is not None:
        total += await run.once(step)
    return total


class _Batches:
    """Runs batches as transactions of their own and notes the longest."""

    def __init__(self, database: Database, report: CleanupReport) -> None:
        self._database = database
        self._report = report

    async def once(self, work: Callable[[AsyncSession], Awaitable[int]]) -> int:
        async with self._database.write() as session:
            started = time.perf_counter()
            count = await work(session)
        took = (time.perf_counter() - started) * 1000
        self._report.longest_lock_ms = max(self._report.longest_lock_ms, round(took, 1))
        await asyncio.sleep(0)
        return count

    async def until_done(self, work: Callable[[AsyncSession], Awaitable[int]]) -> int:
        total = 0
        while count := await self.once(work):
            total += count
        return total
