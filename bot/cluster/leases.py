"""What of the application's work this process has: the lead, and shards. Held as locks in Postgres, looked at often.

The locks are those of one connection. If that is lost, everything is lost, and is taken anew where nobody else has it.
A process that is stopped keeps its locks; once its heartbeats (bot/chat/heartbeat.py) are overdue, another one ends its
connection. When it goes on, it finds that out before it begins anything: see `fence` and `confirm`. With SQLite there
is one process, which has everything. Knows neither what a leader does nor what a shard is.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

import structlog

from models.advisory_locks import LockConnection, holder_name, lock_kind, pass_fence
from models.database import Database, Session
from models.errors import DatabaseError, DatabaseUnavailable
from models.queries.replies.processes import overdue_processes

log = structlog.get_logger(__name__)

INTERVAL = 2.0
"""Seconds between two looks."""
STOPPED_AFTER = 20.0
"""Seconds for which heartbeats must be seen to be overdue: after an outage of the database all of them are, for a
moment."""
_TIMEOUT = 20.0
_MAX_AT_ONCE = 4
"""Shards that are taken at one look: others may be about to start."""
_IDENTIFY_POLL = 0.2  # seconds
_LEAD, _FENCE = 0, 1


class NotHeld(DatabaseUnavailable):
    """What was to be done belongs to another process now. Nothing was changed."""


class Leases:
    """The leases of one process. `num_shards`: how many shards the processes share by lease; None: none."""

    def __init__(self, database: Database, *, num_shards: int | None = None, interval: float | None = None) -> None:
        self._database = database
        self._num_shards = num_shards
        self._interval = INTERVAL if interval is None else interval
        self._connection: LockConnection | None = None
        self._leads = database.is_sqlite
        self._shards: set[int] = set()
        self._overdue_since: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._identifying = asyncio.Lock()
        self._buckets: set[int] = set()
        """Of sessions that this process opened just now."""
        self._giving: set[asyncio.Task[None]] = set()
        self._reason = ""
        self.on_lead: list[Callable[[], None]] = []
        """Called when this process has become the leader."""
        self.on_shards: Callable[[frozenset[int]], None] = lambda shards: None
        """Called with the shards of this process when they have changed."""

    @property
    def leads(self) -> bool:
        """Whether this process leads, as far as it knows."""
        return self._leads

    @property
    def shards(self) -> frozenset[int]:
        """The shards of this process, as far as it knows."""
        return frozenset(self._shards)

    async def start(self) -> None:
        """Look once, then from time to time in the background. Call when the application is known."""
        await self.look()
        if not self._database.is_sqlite:
            self._task = asyncio.create_task(self._run(), name="leases")

    async def close(self) -> None:
        """Give everything back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for task in self._giving:
            task.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        self._shards.clear()

    async def leave_shards(self) -> None:
        """Give all shards back, and take no more: this process ends. Never raises."""
        num_shards, self._num_shards = self._num_shards, None
        given, self._shards = sorted(self._shards), set()
        if num_shards is None or self._connection is None:
            return
        with contextlib.suppress(DatabaseError, TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                await self._connection.give(self._kind("members", num_shards), 0, shared=True)
                for shard in given:
                    await self._connection.give(self._kind("shards", num_shards), shard)

    async def look(self) -> None:
        """Check what this process has, and take what is free. Never raises."""
        if self._database.is_sqlite:
            return
        try:
            async with asyncio.timeout(_TIMEOUT):
                connection = await self._opened()
                await connection.check()
                await self._look_at_lead(connection)
                if self._num_shards is not None:
                    await self._look_at_shards(connection, self._num_shards)
                await self._end_stopped_processes(connection)
        except (DatabaseError, TimeoutError) as error:
            await self._lost(type(error).__name__)
        except Exception as error:
            log.exception("the leases could not be looked at")
            await self._lost(type(error).__name__)
        else:
            self._reason = ""

    async def confirm(self) -> bool:
        """Whether this process leads, asked of the database. Never raises."""
        if self._leads and self._connection is not None:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    await self._connection.check()
            except (DatabaseError, TimeoutError) as error:
                await self._lost(type(error).__name__)
        return self._leads

    async def fence(self, session: Session) -> None:
        """Make sure that this process leads until the end of this transaction. Raises NotHeld."""
        if self._database.is_sqlite:
            return
        connection = self._connection
        if connection is None or not self._leads:
            raise NotHeld("another process leads")
        held = await pass_fence(session, kind=self._kind("lead"), number=_LEAD, fence=_FENCE, pid=connection.pid)
        if not held:
            raise NotHeld("another process leads")

    async def identify(self, bucket: int, seconds: float) -> None:
        """Wait until a session of this bucket may be opened: all processes together open one in `seconds`."""
        kind = self._kind("identify")
        async with self._identifying:
            until = asyncio.get_running_loop().time() + seconds * 20
            while (connection := self._connection) is not None and asyncio.get_running_loop().time() < until:
                try:
                    # A lock can be taken again by who has it, so this process keeps count itself.
                    if bucket not in self._buckets and await connection.take(kind, bucket):
                        self._give_later(connection, kind, bucket, seconds)
                        return
                except DatabaseError:
                    break  # Discord refuses what is too early, and it is tried again
                await asyncio.sleep(_IDENTIFY_POLL)
            await asyncio.sleep(seconds)

    def _give_later(self, connection: LockConnection, kind: int, bucket: int, seconds: float) -> None:
        self._buckets.add(bucket)

        async def give() -> None:
            await asyncio.sleep(seconds)
            self._buckets.discard(bucket)
            if self._connection is connection:
                with contextlib.suppress(DatabaseError):
                    await connection.give(kind, bucket)

        task = asyncio.create_task(give(), name="identify")
        self._giving.add(task)
        task.add_done_callback(self._giving.discard)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self.look()

    async def _opened(self) -> LockConnection:
        if self._connection is None:
            connection = LockConnection(self._database.url, self._database.owner)
            try:
                await connection.open()
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
            if self._num_shards is not None:
                await connection.take(self._kind("members", self._num_shards), 0, shared=True)
        return self._connection

    async def _lost(self, reason: str) -> None:
        """Everything is lost with the connection."""
        if reason != self._reason:
            log.warning("the leases cannot be held now", reason=reason, lead=self._leads, shards=sorted(self._shards))
        self._reason = reason
        self._leads = False
        connection, self._connection = self._connection, None
        if self._shards:
            self._shards.clear()
            self.on_shards(frozenset())
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close()

    async def _look_at_lead(self, connection: LockConnection) -> None:
        if self._leads:
            return
        kind = self._kind("lead")
        if not await connection.take(kind, _LEAD):
            return
        # The one before may be in the middle of a transaction that it began as the leader: it is waited for.
        if not await connection.take(kind, _FENCE):
            await connection.give(kind, _LEAD)
            return
        await connection.give(kind, _FENCE)
        self._leads = True
        log.info("this process leads: it cleans up and registers the commands")
        for call in self.on_lead:
            call()

    async def _look_at_shards(self, connection: LockConnection, num_shards: int) -> None:
        kind = self._kind("shards", num_shards)
        num_processes = max(1, await connection.count(self._kind("members", num_shards), 0))
        share = math.ceil(num_shards / num_processes)
        before = frozenset(self._shards)
        surplus = sorted(self._shards)[share:]
        if surplus:
            # First its sessions on the gateway are ended, then it is free for others.
            self._shards -= set(surplus)
            self.on_shards(frozenset(self._shards))
            for shard in surplus:
                await connection.give(kind, shard)
        kept = frozenset(self._shards)
        most = min(share, len(kept) + _MAX_AT_ONCE)
        for shard in range(num_shards):
            if len(self._shards) >= most:
                break
            if shard not in self._shards and await connection.take(kind, shard):
                self._shards.add(shard)
        if frozenset(self._shards) != before:
            log.info("shards of this process", shards=sorted(self._shards), processes=num_processes)
        if frozenset(self._shards) != kept:
            self.on_shards(frozenset(self._shards))

    async def _end_stopped_processes(self, connection: LockConnection) -> None:
        """End the connections of processes that hold locks and whose heartbeats stopped."""
        kinds = [self._kind("lead")]
        if self._num_shards is not None:
            kinds.append(self._kind("shards", self._num_shards))
        holders: dict[int, str] = {}
        for kind in kinds:
            holders |= await connection.holders(kind)
        holders.pop(connection.pid, None)
        if not holders:
            self._overdue_since.clear()
            return
        async with self._database.read() as session:
            overdue = {holder_name(owner) for owner in await overdue_processes(session)}
        now = time.monotonic()
        self._overdue_since = {name: self._overdue_since.get(name, now) for name in overdue}
        for pid, name in holders.items():
            since = self._overdue_since.get(name)
            if since is not None and now - since >= STOPPED_AFTER and await connection.end_holder(pid, name):
                log.warning("a process that gives no sign of life lost what it held", session=pid)

    def _kind(self, *what: object) -> int:
        return lock_kind("guildllama", self._database.application_id, *what)
