"""Pages of the last hour come back from the files of an engine before, last used first.

They come back for a second before the engine is ready, and the rest while it serves: to slots of the host tier as these
are pinned, or to pages of the device while no slot is ready. If one rank lacks a page, all drop it and those after it.

It runs in rank 0's engine thread. It knows the prefix trie, and no bytes.
"""

import sys
from collections import deque
from collections.abc import Iterable
from typing import Final

from engine.core.kv_files.rank_files import GroupFiles
from engine.core.kv_files.use_times import UseTimes
from engine.kv_store.catalogue import StoredPage
from engine.kv_store.commands import END, MAX_TRANSFERS, RESTORE, RETAIN, PageTransfer, StoreCommand
from engine.scheduler.kv_cache.kv_cache_manager import KVCacheManager
from engine.scheduler.kv_cache.page_table import PrefixNode

RESTORED_BYTES: Final = 16 << 20  # at a time, between two steps


class CacheRestore:
    """The pages that are still to come back. The records of all others are free."""

    def __init__(
        self, cache: KVCacheManager, files: GroupFiles, pages: Iterable[StoredPage], times: UseTimes, page_bytes: int
    ) -> None:
        """`pages`: each after its parent, last used first; `times` has their last uses."""
        self._cache, self._files, self._times = cache, files, times
        self._stored, self._stamps = cache.stored, files.store.stamps
        self._batch_size = min(MAX_TRANSFERS, max(1, RESTORED_BYTES // page_bytes))
        self._pending = deque(pages)
        self._nodes: dict[int, PrefixNode] = {}  # restored or adopted, by record
        self._is_over = not self._pending
        self.num_restored_pages = self._num_lost = 0
        self._stored.claim({page.record for page in self._pending})
        transfers = (PageTransfer(page.record, self._stamps[page.record]) for page in self._pending)
        files.execute(StoreCommand(RETAIN, tuple(transfers)))

    def __bool__(self) -> bool:
        """Whether pages are still to come back."""
        return bool(self._pending)

    def step(self) -> bool:
        """Bring back the next pages; False if there is no room for them now, or none is left."""
        if self._cache.has_waiting_overwrites:
            return False  # the next plan may overwrite pages that are free now
        batch: list[tuple[StoredPage, PrefixNode]] = []
        host = self._cache.host
        while self._pending and len(batch) < self._batch_size:
            page = self._pending[0]
            parent = self._nodes.get(page.parent_record)
            adopted = restored = None
            if self._follows(page, parent):
                if parent is not None and not parent.is_computed:
                    break  # the request that computes it may be cancelled, and this page would be lost with it
                adopted = self._stored.adopt(page.tenant, parent, page.token_ids, page.record)
                if adopted is None:
                    last_used = self._times.clock_at(page.last_used)
                    restored = self._stored.restore(page.tenant, parent, page.token_ids, page.record, last_used)
                    if restored is None and (host.num_slots < host.max_slots or host.num_free_slots):
                        break  # try again when more slots are ready, or when its parent has been saved to a slot
            self._pending.popleft()
            if restored is not None:
                batch.append((page, restored))
            node = restored or adopted
            if node is not None and node.record == page.record:
                self._nodes[page.record] = node
            else:
                self._stored.release(page.record)
        self._stored.finish_restoring()
        if batch:
            self._read(batch)
        self._end_if_done()
        return bool(batch)

    def drop_orphans(self) -> None:
        """Release the pages whose entries name a record that now belongs to another page. Call it before each commit.

        The next engine would restore them below that other page. Takes 15 ms for 100,000 waiting pages.
        """
        waiting: dict[int, StoredPage] = {}
        for page in self._pending:
            if page.parent_record in waiting or self._follows(page, self._nodes.get(page.parent_record)):
                waiting[page.record] = page
            else:
                self._stored.release(page.record)
        self._pending = deque(waiting.values())
        self._end_if_done()

    def forget(self, tenant: str) -> None:
        """Bring back no page of this tenant."""
        for page in self._pending:
            if page.tenant == tenant:
                self._stored.release(page.record)
        self._pending = deque(page for page in self._pending if page.tenant != tenant)
        self._end_if_done()

    def expire(self, before: float) -> None:
        """Bring back no page that was used last before this time."""
        while self._pending and self._pending[-1].last_used < before:
            self._stored.release(self._pending.pop().record)
        self._end_if_done()

    def _follows(self, page: StoredPage, parent: PrefixNode | None) -> bool:
        """Whether `parent` still has the record that the page's entry names, or the page is the first one."""
        return page.parent_record == -1 or (parent is not None and parent.record == page.parent_record)

    def _read(self, batch: list[tuple[StoredPage, PrefixNode]]) -> None:
        """Have all ranks read these pages, and drop those that one of them cannot read."""
        transfers = (
            PageTransfer(page.record, self._stamps[page.record], node.page_id, node.host_slot) for page, node in batch
        )
        answers = self._files.execute(StoreCommand(RESTORE, tuple(transfers)))
        for bit, (_, node) in enumerate(batch):
            if all(answer >> bit & 1 for answer in answers):
                self.num_restored_pages += node.attached
            else:
                self._num_lost += 1
                self._cache.drop(node)

    def _end_if_done(self) -> None:
        if self._pending or self._is_over:
            return
        self._is_over = True
        self._nodes.clear()
        self._files.execute(StoreCommand(END))
        pages = "1 page" if self._num_lost == 1 else f"{self._num_lost} pages"
        lost = f"; {pages} could not be read and must be computed again" if self._num_lost else ""
        if self.num_restored_pages or self._num_lost:
            tokens = self.num_restored_pages * self._cache.page_size
            sys.stderr.write(f"engine: {tokens:,} tokens of the KV cache were restored from its files{lost}\n")
            sys.stderr.flush()
