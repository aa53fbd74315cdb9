"""The KV cache over a restart: rank 0 decides what all ranks write to their files, and what comes back from them.

- Between steps, idle pages are copied from memory, and a thread of each rank seals and writes them. Once a minute, and
  when the engine stops, an index makes durable what has been written.
- At a start the pages of the last hour come back, last used first: for a second before the engine is ready, the rest
  while it serves. A page that one rank does not have is dropped by all, with those after it.
- An erasure drops the tenant's pages from the files, and is done once every rank has made that durable.

It runs in the engine thread. It knows the prefix trie and wall-clock time, and no bytes.
"""

import bisect
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from engine.core.rank_files import ANSWERED, RankFiles
from engine.distributed.communicator import Communicator
from engine.distributed.wire import FILES, RankCommand
from engine.kv_store.catalogue import StoredPage, parents_first
from engine.kv_store.commands import (
    COMMIT,
    END,
    MAX_TRANSFERS,
    POLL,
    RESTORE,
    RETAIN,
    STORE,
    PageTransfer,
    StoreCommand,
)
from engine.kv_store.settings import MAX_AGE
from engine.scheduler.kv_cache.kv_cache_manager import KVCacheManager
from engine.scheduler.kv_cache.page_table import IN_USE, PrefixNode

COPIED_BYTES: Final = 8 << 20  # at a time, between two steps
RESTORED_BYTES: Final = 16 << 20
MAX_BACKLOG: Final = 64 << 20  # bytes that wait to be written while more are copied
MAX_SHARE: Final = 0.05  # of the time while requests run
COMMIT_INTERVAL: Final = 60.0  # seconds
RESTORE_SECONDS: Final = 1.0  # before the engine is ready
FLUSH_SECONDS: Final = 2.0  # for what is left to write when the engine stops
POLL_INTERVAL: Final = 0.05  # seconds between questions whether an erasure is done
WAIT_INTERVAL: Final = 0.25  # seconds between looks for room
SLOT_INTERVAL: Final = 0.02  # the same, before the engine is ready


class CacheFiles:
    """Rank 0's part. `start` it before anything is cached."""

    def __init__(
        self, cache: KVCacheManager, files: RankFiles, communicator: Communicator, *, page_bytes: int, world_size: int
    ) -> None:
        self._cache, self._files, self._communicator, self._world_size = cache, files, communicator, world_size
        self._store, self._stored = files.store, cache.stored
        self._num_copied = min(MAX_TRANSFERS, max(1, COPIED_BYTES // page_bytes))
        self._num_restored = min(MAX_TRANSFERS, max(1, RESTORED_BYTES // page_bytes))
        self._stamps = random.SystemRandom().getrandbits(63)
        self._pending: deque[StoredPage] = deque()  # to restore
        self._nodes: dict[int, PrefixNode] = {}  # restored, by record
        self._clocks: list[int] = []  # logical times, and
        self._times: list[float] = []  # when each of them was
        self._next_copy = self._next_poll = 0.0
        self._next_commit: float | None = None  # None: nothing has changed
        self._erasing = 0  # the commit that the last erasure waits for
        self.num_restored_pages = self._num_lost = 0

    def start(self, learn_ready_slots: Callable[[], None] = lambda: None) -> None:
        """Take over what the files have of the last hour, and restore it for up to RESTORE_SECONDS.

        `learn_ready_slots` tells the cache of slots that have become ready: they are pinned just now.
        """
        now, store = time.time(), self._store
        pages = [page for page in store.pages if page.record in store.stamps]
        for page in pages:
            page.last_used = min(page.last_used, now)  # the clock may have been set back
        pages = [page for page in parents_first(pages) if page.last_used >= now - MAX_AGE]
        self._times = sorted({page.last_used for page in pages})
        self._clocks = list(range(len(self._times)))
        self._stored.start(store.num_records)
        self._stored.claim({page.record for page in pages})
        self._stored.advance_clock(len(self._times))
        self._pending.extend(pages)
        self._command(StoreCommand(RETAIN, tuple(PageTransfer(p.record, store.stamps[p.record]) for p in pages)))
        give_up_at = time.monotonic() + RESTORE_SECONDS
        host = self._cache.host
        while self._pending and time.monotonic() < give_up_at:
            if not self._restore_some():
                if host.num_slots >= host.max_slots:
                    break
                time.sleep(SLOT_INTERVAL)
                learn_ready_slots()

    def step(self, *, idle: bool) -> bool:
        """Do one piece of work if there is any; rarely unless the engine is idle. Returns whether it did something."""
        started = time.monotonic()
        if not idle and started < self._next_copy:
            return False
        did_something = bool(self._pending) and self._restore_some()
        if not did_something and self._store.backlog < MAX_BACKLOG:
            did_something = self._store_some()
        if self._next_commit is None:
            if self._stored.has_changes:
                self._next_commit = started + COMMIT_INTERVAL
        elif started >= self._next_commit:
            self._commit()
        now = time.monotonic()
        self._next_copy = now + (now - started) / MAX_SHARE
        return did_something

    def erase(self, tenant: str) -> None:
        """The tenant's pages have left the trie: drop them from the files, and those that are not restored yet."""
        kept = deque(page for page in self._pending if page.tenant != tenant)
        for page in self._pending:
            if page.tenant == tenant:
                self._stored.release(page.record)
        self._pending = kept
        self._commit()
        self._erasing = self._store.num_commits

    def is_erased(self) -> bool | None:
        """Whether no rank's files have anything of the erased tenants; None if that cannot be achieved."""
        if not self._erasing:
            return True
        if time.monotonic() < self._next_poll:
            return False
        done = self._num_done()
        self._next_poll = time.monotonic() + (POLL_INTERVAL if self._world_size > 1 else 0.0)
        if done < 0:
            self._erasing = 0
            return None
        if done < self._erasing:
            return False
        self._erasing = 0
        return True

    def seconds_until_due(self) -> float | None:
        """Seconds after which `step` or `is_erased` should be called although nothing happens; None: never."""
        now = time.monotonic()
        waits = [WAIT_INTERVAL] if self._pending or self._store.backlog >= MAX_BACKLOG else []
        if self._erasing:
            waits.append(POLL_INTERVAL)
        if self._next_commit is not None:
            waits.append(max(0.0, self._next_commit - now))
        return min(waits, default=None)

    def close(self) -> None:
        """Write what is left, for up to FLUSH_SECONDS, on all ranks."""
        deadline = time.monotonic() + FLUSH_SECONDS
        while time.monotonic() < deadline:
            if self._store.backlog >= MAX_BACKLOG:
                time.sleep(0.005)
            elif not self._store_some():
                break
        self._commit()
        while 0 <= self._num_done() < self._store.num_commits and time.monotonic() < deadline:
            time.sleep(0.005)
        self._store.close(max(0.0, deadline - time.monotonic()))

    def _restore_some(self) -> bool:
        """Bring back the next pages; False if there is no room for them now."""
        batch: list[tuple[StoredPage, PrefixNode]] = []
        host = self._cache.host
        while self._pending and len(batch) < self._num_restored:
            page = self._pending[0]
            parent = self._nodes.get(page.parent_record)
            node = None
            if page.parent_record == -1 or (parent is not None and parent.attached):
                last_used = bisect.bisect_left(self._times, page.last_used)
                node = self._stored.restore(page.tenant, parent, page.token_ids, page.record, last_used)
                if node is None and host.num_slots < host.max_slots:
                    break  # until more slots are ready
            self._pending.popleft()
            if node is not None:
                self._nodes[page.record] = node
            if node is not None and node.record == page.record:
                batch.append((page, node))
            else:
                self._stored.release(page.record)
        self._stored.finish_restoring()
        if batch:
            self._read(batch)
        if not self._pending:
            self._end_restoring()
        return bool(batch)

    def _read(self, batch: list[tuple[StoredPage, PrefixNode]]) -> None:
        """Have all ranks read these pages, and drop those that one of them cannot read."""
        stamps = self._store.stamps
        answers = self._command(
            StoreCommand(
                RESTORE,
                tuple(
                    PageTransfer(page.record, stamps[page.record], node.page_id, node.host_slot) for page, node in batch
                ),
            )
        )
        for bit, (_, node) in enumerate(batch):
            if all(answer >> bit & 1 for answer in answers):
                self.num_restored_pages += node.attached
            else:
                self._num_lost += 1
                self._cache.drop(node)

    def _end_restoring(self) -> None:
        self._nodes.clear()
        self._command(StoreCommand(END))
        lost = f"; {self._num_lost} pages could not be read, and are computed again" if self._num_lost else ""
        if self.num_restored_pages or self._num_lost:
            tokens = self.num_restored_pages * self._cache.page_size
            sys.stderr.write(f"engine: {tokens:,} tokens of the KV cache were restored from its files{lost}\n")
            sys.stderr.flush()

    def _store_some(self) -> bool:
        """Have all ranks copy the next pages to their files; False if there are none."""
        planned = self._stored.plan(self._num_copied) if self._store.is_open else []
        if not planned:
            return False
        transfers, pages = [], []
        for new in planned:
            self._stamps += 1
            transfers.append(PageTransfer(new.record, self._stamps, new.page_id, new.slot))
            node = new.node
            last_used = self._time_of(node.recency)
            pages.append(StoredPage(new.record, new.parent_record, node.tenant, node.token_ids, last_used))
        self._command(StoreCommand(STORE, tuple(transfers)), pages)
        return True

    def _commit(self) -> None:
        now = time.time()
        if not self._clocks or self._stored.clock > self._clocks[-1]:
            self._clocks.append(self._stored.clock)
            self._times.append(max([now, *self._times[-1:]]))
        old = bisect.bisect_left(self._times, now - MAX_AGE)
        if old:
            self._stored.expire(self._clocks[old - 1])
        used = self._stored.take_used()
        self._command(StoreCommand(COMMIT, dropped=self._stored.take_dropped()), last_used=dict.fromkeys(used, now))
        self._next_commit = None

    def _time_of(self, clock: int) -> float:
        """About when it was; a bit too late rather than too early."""
        at = bisect.bisect_left(self._clocks, clock)
        return self._times[at] if clock != IN_USE and at < len(self._times) else time.time()

    def _num_done(self) -> int:
        """Commits that every rank has done; below 0 if a rank can do none."""
        return min(self._command(StoreCommand(POLL)))

    def _command(
        self,
        command: StoreCommand,
        pages: list[StoredPage] | None = None,
        last_used: dict[int, float] | None = None,
    ) -> tuple[int, ...]:
        """All ranks' answers, if the command is answered."""
        self._communicator.broadcast_command(RankCommand(FILES, files=command))
        answer = self._files.execute(command, pages or (), last_used)
        return self._communicator.all_gather(answer) if command.kind in ANSWERED else ()
