"""Reads and opens records ahead of the engine thread, in the order in which it will ask for them."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

_NUM_THREADS: Final = 2
_BYTES_AHEAD: Final = 64 << 20


class RecordReader:
    """Records that are asked for in another order, or not at all, are skipped."""

    def __init__(
        self, read: Callable[[int, int], bytes | None], order: Sequence[tuple[int, int]], page_bytes: int
    ) -> None:
        """`read` gets a record and its stamp, on several threads; `order` has both of each."""
        self._read, self._order, self._wanted = read, deque(order), set(order)
        self._num_ahead = max(_NUM_THREADS, _BYTES_AHEAD // page_bytes)
        self._ahead: deque[tuple[tuple[int, int], Future[bytes | None]]] = deque()
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="kv store")
        self._fill()

    def take(self, record: int, stamp: int) -> bytes | None:
        """What `read` has returned for it; None also for one that is not in the order, or was skipped."""
        if (record, stamp) not in self._wanted:
            return None
        while self._ahead:
            key, future = self._ahead.popleft()
            self._wanted.discard(key)
            self._fill()
            if key == (record, stamp):
                return future.result()
        return None

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        while self._order and len(self._ahead) < self._num_ahead:
            key = self._order.popleft()
            self._ahead.append((key, self._threads.submit(self._read, *key)))
