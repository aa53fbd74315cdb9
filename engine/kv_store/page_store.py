"""One rank's store: pages go to sealed files on a thread of its own, and come back when the engine has restarted.

It is a cache. Whatever is wrong with the files costs one line in the log, and the pages that cannot be used are
computed again. When the disk fails or is full the files are emptied, so that what should be erased is not left in them.

It knows records, stamps and bytes. It does not know the prefix trie, devices or other ranks.
"""

import os
import queue
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from engine.kv_store.catalogue import StoredPage, decode, encode
from engine.kv_store.files import StoreFiles
from engine.kv_store.index import Index, IndexUnusable, open_index, seal_index
from engine.kv_store.reader import RecordReader
from engine.kv_store.sealing import OVERHEAD, SALT_BYTES, Sealer
from engine.kv_store.settings import StoreSettings

MAX_BACKLOG: Final = 256 << 20  # bytes that wait to be written; more are not kept
MAX_RECORDS: Final = 1 << 18
_INDEX_BYTES: Final = 1 << 20  # of an index, besides those of each record
_RECORD_INDEX_BYTES: Final = 1024
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
        self._settings, self._rank, self._page_size, self._fingerprint = settings, rank, page_size, fingerprint
        self._page_bytes, self._on_commit = page_bytes, on_commit
        self._context = b"rank %d of %d" % (rank, world_size)
        self.num_records = min(MAX_RECORDS, settings.max_bytes // (world_size * (page_bytes + OVERHEAD)))
        self.num_commits = 0  # asked for
        self.num_done = 0  # commits; -1: something may be left in the files that should not be
        self._backlog, self._backlog_lock = 0, threading.Lock()
        self._queue: queue.SimpleQueue[_Put | _Commit | None] = queue.SimpleQueue()
        self._stamps: dict[int, int] = {}
        self._catalogue: dict[int, StoredPage] = {}
        self._reader: RecordReader | None = None
        self._salt = os.urandom(SALT_BYTES)
        self._sealer = Sealer(settings.key, self._salt)
        self._files: StoreFiles | None = None
        self._open()
        if self._files is None:
            self.num_records = 0
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
        """Write what waits, for at most so many seconds."""
        self.finish_reading()
        self._queue.put(None)
        self._thread.join(timeout)

    def _open(self) -> None:
        """Lock the files and read the index; without a usable one, begin with empty files."""
        folder = self._settings.folder
        try:
            files = StoreFiles(folder, self._rank, self._page_bytes + OVERHEAD)
        except BlockingIOError:
            self._log(f"{folder} belongs to another engine that runs; this one keeps no pages over a restart")
            return
        except OSError as error:
            self._log(f"{folder} cannot be used ({error.strerror}); no pages are kept over a restart")
            return
        self._files = files
        try:
            self._read_index(files)
            files.truncate(self.num_records)
        except (IndexUnusable, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._log(f"{files.index_path} is not used, and the KV cache starts empty: {reason}")
            self._stamps, self._catalogue = {}, {}
            if not self._empty():
                files.close()
                self._files = None

    def _read_index(self, files: StoreFiles) -> None:
        data = files.read_index(_INDEX_BYTES + self.num_records * _RECORD_INDEX_BYTES)
        if data is None:
            files.clear()
            return
        index, self._sealer, self._salt = open_index(
            data, self._settings.key, fingerprint=self._fingerprint, context=self._context
        )
        self._stamps = {record: stamp for record, stamp in index.stamps.items() if record < self.num_records}
        if not self._rank:
            try:
                pages = decode(index.catalogue, self._page_size)
            except ValueError as error:
                raise IndexUnusable(f"it is malformed: {error}") from error
            self._catalogue = {page.record: page for page in pages if page.record in self._stamps}

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
        catalogue = encode(self._catalogue.values(), self._page_size) if not self._rank else b""
        sealed = seal_index(
            Index(self._stamps, catalogue), self._sealer, self._salt,
            fingerprint=self._fingerprint, context=self._context,
        )  # fmt: skip
        self._files.write_index(sealed)

    def _give_up(self, error: OSError) -> None:
        self._log(f"{self._settings.folder} is no longer written ({error.strerror}); the next start begins empty")
        self._stamps, self._catalogue = {}, {}
        self._empty()
        if self._files is not None:
            self._files.close()
        self._files = None

    def _empty(self) -> bool:
        try:
            if self._files is not None:
                self._files.clear()
        except OSError as error:
            self.num_done = -1
            self._log(f"{self._settings.folder} cannot be emptied ({error.strerror}); delete its files")
        return self.num_done >= 0

    def _read_page(self, record: int, stamp: int) -> bytes | None:
        if self._files is None:
            return None
        try:
            sealed = self._files.read_record(record)
        except OSError:
            return None
        page = self._sealer.open(sealed, self._record_context(record, stamp))
        return page if page is not None and len(page) == self._page_bytes else None

    def _record_context(self, record: int, stamp: int) -> bytes:
        return _CONTEXT.pack(b"page", self._rank, record, stamp)

    def _log(self, line: str) -> None:
        rank = f"rank {self._rank}: " if self._rank else ""
        sys.stderr.write(f"engine: {rank}{line}\n")
        sys.stderr.flush()
