"""One rank's store: pages go to sealed files on a thread of its own, and come back when the engine has restarted.

It is a cache. Whatever is wrong with the files costs one line in the log, and the pages that cannot be used are
computed again. When the disk fails or is full the files are emptied, so that what should be erased is not left in them.

It knows records, stamps and bytes. It does not know the prefix trie, devices or other ranks.
"""

import queue
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from engine.kv_store.catalogue import StoredPage, encode
from engine.kv_store.index import Index, seal_index
from engine.kv_store.opening import FileFormat, clear, open_store
from engine.kv_store.reader import RecordReader
from engine.kv_store.sealing import OVERHEAD
from engine.kv_store.settings import StoreSettings

MAX_BACKLOG: Final = 256 << 20  # bytes that wait to be written; more are not kept
MAX_RECORDS: Final = 1 << 18
_CONTEXT: Final = struct.Struct("<4sIIQ")


class PageImages(Protocol):
    """Pages that are on their way to ordinary memory."""

    def page(self, index: int) -> bytes:
        """The bytes of one of them; waits until they are there. Any thread may call it."""
        ...


@dataclass(frozen=True, slots=True)
class _Put:
    record: int
    stamp: int
    images: PageImages | None  # None: the record is overwritten with zeros
    number: int
    page: StoredPage | None


@dataclass(frozen=True, slots=True)
class _Commit:
    dropped: tuple[int, ...]
    last_used: Mapping[int, float]


class PageStore:
    """`put` and `commit` return at once; one thread does what they ask for, in their order."""

    def __init__(
        self,
        settings: StoreSettings,
        *,
        rank: int,
        world_size: int,
        page_bytes: int,
        page_size: int,
        fingerprint: bytes,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_commit` is called on the store's thread after each commit."""
        self._settings, self._page_bytes, self._on_commit = settings, page_bytes, on_commit
        record_bytes = page_bytes + OVERHEAD
        num_records = min(MAX_RECORDS, settings.max_bytes // (world_size * record_bytes))
        context = b"rank %d of %d" % (rank, world_size)
        self._format = FileFormat(rank, context, record_bytes, num_records, page_size, fingerprint)
        self._queue: queue.SimpleQueue[_Put | _Commit | None] = queue.SimpleQueue()
        self._backlog, self._backlog_lock = 0, threading.Lock()
        self._reader: RecordReader | None = None
        opened = open_store(settings, self._format, self._log)
        self._files, self._sealer, self._salt = opened.files, opened.sealer, opened.salt
        self._stamps, self._catalogue = opened.stamps, opened.catalogue
        self.num_records = 0 if self._files is None else num_records
        self.num_commits = 0  # asked for
        self.num_done = 0 if opened.is_clean else -1  # commits; -1: more may be left in the files than should be
        self.pages = list(self._catalogue.values())
        self.stamps: Mapping[int, int] = dict(self._stamps)
        self._thread = threading.Thread(target=self._run, name="kv store", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether anything is written."""
        return self._files is not None

    @property
    def backlog(self) -> int:
        """Bytes that wait to be written."""
        return self._backlog

    def put(self, record: int, stamp: int, images: PageImages, number: int, page: StoredPage | None = None) -> None:
        """Write one of `images` to a record. `page`, rank 0 only: what it is."""
        if self._backlog + self._page_bytes > MAX_BACKLOG:
            self._queue.put(_Put(record, stamp, None, 0, None))
            return
        with self._backlog_lock:
            self._backlog += self._page_bytes
        self._queue.put(_Put(record, stamp, images, number, page))

    def commit(self, dropped: Iterable[int] = (), last_used: Mapping[int, float] | None = None) -> int:
        """Overwrite the dropped records, then make the index say what is there now. Returns the commit's number."""
        self.num_commits += 1
        self._queue.put(_Commit(tuple(dropped), last_used or {}))
        return self.num_commits

    def retain(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Drop all records but these (record, stamp), which will be read in this order. Once, before any `put`."""
        have = [(record, stamp) for record, stamp in wanted if self.stamps.get(record) == stamp]
        self.commit(self.stamps.keys() - dict(have).keys())
        self._reader = RecordReader(self._read_page, have, self._page_bytes)

    def read(self, record: int, stamp: int) -> bytes | None:
        """The page that was retained; None if it is not there, or not what was written."""
        return None if self._reader is None else self._reader.take(record, stamp)

    def finish_reading(self) -> None:
        """No more pages are read."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def close(self, timeout: float) -> None:
        """Write what waits, for at most `timeout` seconds."""
        self.finish_reading()
        self._queue.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            if self._files is not None:
                for record in range(self._files.num_records):
                    if record not in self._stamps and any(self._files.read_record(record, 64)):
                        self._files.overwrite_record(record)  # left by an engine that was killed
        except OSError as error:
            self._give_up(error)
        while (item := self._queue.get()) is not None:
            try:
                if isinstance(item, _Put):
                    self._put(item)
                else:
                    self._commit(item)
            except OSError as error:
                self._give_up(error)
            if isinstance(item, _Commit):
                self.num_done += self.num_done >= 0
                self._on_commit()
            elif item.images is not None:
                with self._backlog_lock:
                    self._backlog -= self._page_bytes
        if self._files is not None:
            self._files.close()

    def _put(self, item: _Put) -> None:
        if self._files is None:
            return
        self._stamps.pop(item.record, None)
        self._catalogue.pop(item.record, None)
        if item.images is None:
            self._files.overwrite_record(item.record)
            return
        context = self._record_context(item.record, item.stamp)
        self._files.write_record(item.record, self._sealer.seal(item.images.page(item.number), context))
        self._stamps[item.record] = item.stamp
        if item.page is not None:
            self._catalogue[item.record] = item.page

    def _commit(self, item: _Commit) -> None:
        if self._files is None:
            return
        for record in item.dropped:
            self._stamps.pop(record, None)
            self._catalogue.pop(record, None)
            self._files.overwrite_record(record)
        for record, seconds in item.last_used.items():
            if record in self._catalogue:
                self._catalogue[record].last_used = seconds
        form = self._format
        catalogue = b"" if form.rank else encode(self._catalogue.values(), form.page_size)
        sealed = seal_index(
            Index(self._stamps, catalogue), self._sealer, self._salt, fingerprint=form.fingerprint, context=form.context
        )
        self._files.write_index(sealed)

    def _give_up(self, error: OSError) -> None:
        self._log(f"{self._settings.folder} is no longer written ({error.strerror}); the next start begins empty")
        self._stamps, self._catalogue = {}, {}
        if self._files is not None:
            if not clear(self._files, self._settings, self._log):
                self.num_done = -1
            self._files.close()
        self._files = None

    def _read_page(self, record: int, stamp: int) -> bytes | None:
        files = self._files  # which the store's thread may give up meanwhile
        if files is None:
            return None
        try:
            sealed = files.read_record(record)
        except OSError:
            return None
        page = self._sealer.open(sealed, self._record_context(record, stamp))
        return page if page is not None and len(page) == self._page_bytes else None

    def _record_context(self, record: int, stamp: int) -> bytes:
        return _CONTEXT.pack(b"page", self._format.rank, record, stamp)

    def _log(self, line: str) -> None:
        rank = f"rank {self._format.rank}: " if self._format.rank else ""
        sys.stderr.write(f"engine: {rank}{line}\n")
        sys.stderr.flush()
