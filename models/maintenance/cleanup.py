"""One cleanup run: many short write transactions, so that chats can write between them.

Knows what is due and in which order. When to run, and whether the clock can be trusted, is up to the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from models.database import Database
from models.maintenance.vacuum import release_space
from models.queries.administration import blocks, purges, reports
from models.queries.deletion import purge, retention
from models.queries.deletion.retention import RetentionLimits
from models.queries.replies import recovery, unfinished_deliveries
from models.queries.tenants import threads

BATCH = 50  # rows per transaction: a few milliseconds under the write lock; a chat would notice about 100
USERS_A_LOOK = 500
"""Users that are looked at in one read transaction."""


Fence = Callable[[AsyncSession], Awaitable[None]]
"""Raises in a transaction that is not to go on."""


@dataclass(slots=True)
class CleanupReport:
    """Rows that a run changed or deleted (or would, in a dry run). `guildllama db cleanup` prints these names."""

    interrupted_turns: int = 0
    ended_dialogs: int = 0
    purged_dialogs_and_turns: int = 0
    purged_old_turns: int = 0
    purged_facts: int = 0
    purged_by_admins: int = 0
    purged_reports: int = 0
    purged_guild_rows: int = 0
    purged_guilds: int = 0
    forgotten_users: int = 0
    forgotten_bookkeeping: int = 0
    released_pages: int = 0
    longest_lock_ms: float = 0.0

    @property
    def deleted(self) -> int:
        """Deleted rows, guilds and users not counted."""
        return (
            self.purged_dialogs_and_turns
            + self.purged_old_turns
            + self.purged_facts
            + self.purged_by_admins
            + self.purged_reports
            + self.purged_guild_rows
            + self.forgotten_bookkeeping
        )

    def rows(self) -> tuple[tuple[str, int | float], ...]:
        """Return (name, value) pairs, for tables and JSON."""
        return tuple((field.name, getattr(self, field.name)) for field in fields(self))


def summed(runs: Iterable[CleanupReport]) -> CleanupReport:
    """Return one report of several runs, each for another application."""
    total = CleanupReport()
    for run in runs:
        for name, value in run.rows():
            before = getattr(total, name)
            setattr(total, name, max(before, value) if name == "longest_lock_ms" else before + value)
    return total


@dataclass(frozen=True, slots=True)
class IdleCounts:
    """How many dialogs are open, and how many of them a run would end now."""

    open_dialogs: int
    would_end: int


async def count_idle_dialogs(database: Database, *, limits: RetentionLimits, now: datetime) -> IdleCounts:
    """Return the counts by which the caller notices a wrong clock: it would end most dialogs at once."""
    async with database.read() as session:
        idle = await retention.idle_conditions(session, limits=limits, now=now)
        would_end = sum([await retention.count_idle(session, idle=condition) for condition in idle])
        return IdleCounts(await retention.count_open(session), would_end)


async def preview(database: Database, *, limits: RetentionLimits, now: datetime) -> CleanupReport:
    """Return what `clean` would do, without changing anything."""
    report = CleanupReport()
    async with database.read() as session:
        report.interrupted_turns = len(await recovery.dead_turns(session, now=now))
        idle = await retention.idle_conditions(session, limits=limits, now=now)
        report.ended_dialogs = sum([await retention.count_idle(session, idle=condition) for condition in idle])
        rules = await retention.retention_rules(session, limits=limits, now=now)
        report.purged_dialogs_and_turns = sum(await retention.count_expired(session, rules=rules))
        for rule in rules:
            report.purged_old_turns += len(await retention.expired_turns(session, rule=rule, limit=1_000_000))
        report.purged_facts = await retention.count_expired_facts(session, rules=rules)
        for due in await purges.due_purges(session, now=now):
            report.purged_by_admins += await purges.count_hidden(session, purge=due)
        report.purged_reports = await reports.count_old_reports(session, before=retention.cutoff(now, limits.reports))
        report.purged_guilds = len(await purge.removed_guilds(session, limits=limits, now=now))
    return report


async def clean(
    database: Database,
    *,
    limits: RetentionLimits,
    now: datetime,
    batch_size: int = BATCH,
    fence: Fence | None = None,
) -> CleanupReport:
    """Do everything that is due at `now`. May be stopped anywhere, repeated, or run by two processes at once.

    `fence` is called at the beginning of each transaction, and raises to end the run.
    """
    report = CleanupReport()
    batches = _BatchRunner(database, report, fence)
    report.interrupted_turns = await batches.run(partial(recovery.interrupt_dead_turns, now=now))
    await batches.run_until_empty(partial(unfinished_deliveries.expire_deliveries, now=now, limit=batch_size))

    async with database.read() as session:
        idle = await retention.idle_conditions(session, limits=limits, now=now)
        rules = await retention.retention_rules(session, limits=limits, now=now)
        guild_ids = await purge.removed_guilds(session, limits=limits, now=now)
    for condition in idle:
        report.ended_dialogs += await batches.run_until_empty(
            partial(retention.end_idle_dialogs, idle=condition, now=now, limit=batch_size)
        )
    for rule in rules:
        report.purged_dialogs_and_turns += await batches.run_until_empty(
            partial(retention.purge_expired_dialogs, rule=rule, limit=batch_size)
        )
        report.purged_old_turns += await _purge_expired_turns(database, batches, rule, batch_size)
        report.purged_facts += await batches.run_until_empty(
            partial(retention.delete_expired_facts, rule=rule, limit=batch_size)
        )
    report.purged_by_admins = await _delete_due_purges(database, batches, now, batch_size)
    report.purged_reports = await batches.run_until_empty(
        partial(reports.delete_old_reports, before=retention.cutoff(now, limits.reports), limit=batch_size)
    )
    for guild_id in guild_ids:
        report.purged_guild_rows += await batches.run_until_empty(
            partial(purge.purge_guild, guild_id=guild_id, limit=batch_size)
        )
        report.purged_guilds += 1
    report.forgotten_bookkeeping = await batches.run_until_empty(
        partial(purge.delete_expired_bookkeeping, now=now, limit=batch_size)
    )
    report.forgotten_bookkeeping += await batches.run_until_empty(
        partial(threads.delete_unused_bindings, limits=limits, now=now, limit=batch_size)
    )
    report.forgotten_bookkeeping += await batches.run_until_empty(
        partial(blocks.delete_ended_blocks, now=now, limit=batch_size)
    )
    if report.deleted:
        report.forgotten_users = await _delete_unused_users(database, batches, batch_size)
        report.released_pages = await release_space(database)
    return report


async def delete_due_purges(
    database: Database, *, now: datetime, batch_size: int = BATCH, fence: Fence | None = None
) -> int:
    """Delete the conversations that admins had deleted and can no longer bring back; return the rows deleted.

    For a job that runs every minute: without one that is due, it reads an index and writes nothing.
    """
    batches = _BatchRunner(database, CleanupReport(), fence)
    deleted = await _delete_due_purges(database, batches, now, batch_size)
    if deleted:
        await release_space(database)
    return deleted


async def _delete_due_purges(database: Database, batches: _BatchRunner, now: datetime, batch_size: int) -> int:
    async with database.read() as session:
        due = await purges.due_purges(session, now=now)
    total = 0
    for each in due:
        total += await batches.run_until_empty(partial(purges.delete_hidden, purge=each, now=now, limit=batch_size))
    return total


async def _purge_expired_turns(
    database: Database, batches: _BatchRunner, rule: retention.RetentionRule, batch_size: int
) -> int:
    """Find turns in a read transaction and delete them in a write transaction, so that the search holds no lock."""
    total = 0
    while True:
        async with database.read() as session:
            ids = await retention.expired_turns(session, rule=rule, limit=batch_size)
        if not ids:
            return total
        total += await batches.run(partial(retention.delete_turns, turn_ids=ids))


async def _delete_unused_users(database: Database, batches: _BatchRunner, batch_size: int) -> int:
    """Go through all users by id. Most are in use, so look in read transactions, and write only for those that go."""
    total = 0
    after: int | None = -1
    while after is not None:
        async with database.read() as session:
            unused, after = await purge.unused_users(session, after=after, limit=USERS_A_LOOK)
        for start in range(0, len(unused), batch_size):
            batch = unused[start : start + batch_size]
            total += await batches.run(partial(purge.delete_unused_users, first_id=batch[0], last_id=batch[-1]))
    return total


class _BatchRunner:
    """Runs each batch in its own write transaction and records the longest one in the report."""

    def __init__(self, database: Database, report: CleanupReport, fence: Fence | None) -> None:
        self._database = database
        self._report = report
        self._fence = fence

    async def run(self, work: Callable[[AsyncSession], Awaitable[int]]) -> int:
        """Run one batch; return how many rows it changed."""
        async with self._database.write() as session:
            if self._fence is not None:
                await self._fence(session)
            started = time.perf_counter()
            count = await work(session)
        elapsed_ms = (time.perf_counter() - started) * 1000
        self._report.longest_lock_ms = max(self._report.longest_lock_ms, round(elapsed_ms, 1))
        await asyncio.sleep(0)
        return count

    async def run_until_empty(self, work: Callable[[AsyncSession], Awaitable[int]]) -> int:
        """Repeat the batch until it changes no row; return the sum."""
        total = 0
        while count := await self.run(work):
            total += count
        return total
