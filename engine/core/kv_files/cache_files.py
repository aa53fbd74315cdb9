"""The KV cache over a restart: rank 0 decides what all ranks write to their files, and what is erased from them.

- Between steps, idle pages are copied from memory, and a thread of each rank seals and writes them. Once a minute, and
  when the engine stops, an index makes durable what has been written.
- At a start the pages of the last hour come back (`cache_restore.py`).
- An erasure drops the tenant's pages from the files, and is done once every rank has made that durable.
- What was used last more than an hour ago is dropped, also while nothing else happens.

It runs in the engine thread. It knows the prefix trie and wall-clock time, and no bytes.
"""

import math
import random
import time
from collections.abc import Callable
from typing import Final

from engine.core.kv_files.cache_restore import CacheRestore
from engine.core.kv_files.rank_files import GroupFiles, RankFiles
from engine.core.kv_files.use_times import UseTimes
from engine.distributed.communicator import Communicator
from engine.kv_store.catalogue import StoredPage, parents_first
from engine.kv_store.commands import COMMIT, MAX_TRANSFERS, STORE, PageTransfer, StoreCommand
from engine.kv_store.settings import MAX_AGE
from engine.scheduler.kv_cache.kv_cache_manager import KVCacheManager

COPIED_BYTES: Final = 8 << 20  # at a time, between two steps
MAX_BACKLOG: Final = 64 << 20  # bytes that wait to be written while more are copied
MAX_SHARE: Final = 0.05  # of the time while requests run
COMMIT_INTERVAL: Final = 60.0  # seconds
EXPIRY_INTERVAL: Final = 600.0  # the same, while nothing changes but the age of what is stored
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
        self._cache, self._world_size, self._page_bytes = cache, world_size, page_bytes
        self._files = GroupFiles(files, communicator)
        self._store, self._stored = files.store, cache.stored
        self._num_copied = min(MAX_TRANSFERS, max(1, COPIED_BYTES // page_bytes))
        self._stamps = random.SystemRandom().getrandbits(63)
        self._times = UseTimes()
        self._restore: CacheRestore | None = None
        self._learn_ready_slots: Callable[[], None] = lambda: None
        self._next_copy = self._next_poll = self._next_look = 0.0
        self._next_commit = math.inf
        self._erasing = 0  # the commit that the last erasure waits for

    @property
    def num_restored_pages(self) -> int:
        """Pages that came back from the files."""
        return 0 if self._restore is None else self._restore.num_restored_pages

    def start(self, learn_ready_slots: Callable[[], None] = lambda: None) -> None:
        """Take over what the files have of the last hour, and restore it for up to RESTORE_SECONDS.

        `learn_ready_slots` tells the cache of slots that have become ready: slots are still being pinned. Pages for
        which there is no room yet come back later, between steps.
        """
        self._learn_ready_slots = learn_ready_slots
        now, store = time.time(), self._store
        pages = [page for page in store.pages if page.record in store.stamps]
        for page in pages:
            page.last_used = min(page.last_used, now)  # the clock may have been set back
        pages = [page for page in parents_first(pages) if page.last_used >= now - MAX_AGE]
        self._times = UseTimes(page.last_used for page in pages)
        self._stored.start(store.num_records)
        self._stored.advance_clock(len(self._times))
        restore = self._restore = CacheRestore(self._cache, self._files, pages, self._times, self._page_bytes)
        give_up_at = time.monotonic() + RESTORE_SECONDS
        learn_ready_slots()
        host = self._cache.host
        while restore and time.monotonic() < give_up_at:
            if not restore.step():
                if host.num_slots >= host.max_slots:
                    break
                time.sleep(SLOT_INTERVAL)
                learn_ready_slots()

    def step(self, *, idle: bool) -> bool:
        """Do one piece of work if there is any; rarely unless the engine is idle. Returns whether it did something."""
        started = time.monotonic()
        if not idle and started < self._next_copy:
            return False
        did_something = self._restore_some()
        if not did_something and self._store.backlog < MAX_BACKLOG:
            did_something = self._store_some()
        if self._stored.has_changes:
            self._next_commit = min(self._next_commit, started + COMMIT_INTERVAL)
        elif self._stored.has_records:
            self._next_commit = min(self._next_commit, started + EXPIRY_INTERVAL)
        if started >= self._next_commit:
            self._commit()
        now = time.monotonic()
        self._next_copy = now + (now - started) / MAX_SHARE
        return did_something

    def erase(self, tenant: str) -> None:
        """The tenant's pages have left the trie: drop them from the files, and those that are not restored yet."""
        if self._restore is not None:
            self._restore.forget(tenant)
        self._commit()
        self._erasing = self._store.num_commits

    def is_erased(self) -> bool | None:
        """Whether no rank's files have anything of the erased tenants; None if that cannot be achieved."""
        if not self._erasing:
            return True
        if time.monotonic() < self._next_poll:
            return False
        done = self._files.num_done()
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
        waits = [WAIT_INTERVAL] if self._restore or self._store.backlog >= MAX_BACKLOG else []
        if self._erasing:
            waits.append(POLL_INTERVAL)
        if self._next_commit < math.inf:
            waits.append(max(0.0, self._next_commit - time.monotonic()))
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
        while 0 <= self._files.num_done() < self._store.num_commits and time.monotonic() < deadline:
            time.sleep(0.005)
        self._store.close(max(0.0, deadline - time.monotonic()))

    def _restore_some(self) -> bool:
        """Bring back the next pages, or learn of slots that have become ready. Returns whether it did either."""
        if not self._restore:
            return False
        if self._restore.step():
            return True
        host, now = self._cache.host, time.monotonic()
        if not self._restore or host.num_slots >= host.max_slots or now < self._next_look:
            return False
        self._next_look = now + WAIT_INTERVAL
        num_slots = host.num_slots
        self._learn_ready_slots()
        return host.num_slots > num_slots

    def _store_some(self) -> bool:
        """Have all ranks copy the next pages to their files; False if there are none."""
        planned = self._stored.plan(self._num_copied) if self._store.is_open else []
        if not planned:
            return False
        transfers, pages = [], []
        now = time.time()
        for new in planned:
            self._stamps += 1
            transfers.append(PageTransfer(new.record, self._stamps, new.page_id, new.slot))
            node = new.node
            last_used = self._times.time_at(node.recency, now)
            pages.append(StoredPage(new.record, new.parent_record, node.tenant, node.token_ids, last_used))
        self._files.execute(StoreCommand(STORE, tuple(transfers)), pages)
        return True

    def _commit(self) -> None:
        now = time.time()
        self._times.read(self._stored.clock, now)
        if self._restore is not None:
            self._restore.expire(now - MAX_AGE)
        expired = self._times.forget(now - MAX_AGE)
        if expired is not None:
            self._stored.expire(expired)
        if self._restore is not None:
            self._restore.drop_orphans()
        last_used = dict.fromkeys(self._stored.take_used(), now)
        self._files.execute(StoreCommand(COMMIT, dropped=self._stored.take_dropped()), last_used=last_used)
        self._next_commit = math.inf
