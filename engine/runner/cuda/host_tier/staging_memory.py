"""Pinned memory for bytes on their way to files, used again and again.

torch's own pinned memory would not do: when a thread frees it, torch records an event on the stream that has used it.
While that stream records a graph, the event ends the recording with an error.

It knows bytes, and neither pages nor streams.
"""

import threading
from typing import Final

from engine.runner.cuda.host_tier.pinned_memory import PinnedMemory

SMALLEST: Final = 1 << 20  # bytes of a piece; the others are larger by powers of two


class StagingMemory:
    """Pieces that are taken and given back. Any thread may give one back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[PinnedMemory]] = {}  # by size
        self._closed = False

    def take(self, num_bytes: int) -> PinnedMemory:
        """A piece of at least this many bytes. Raises RuntimeError where no more can be pinned."""
        size = max(SMALLEST, 1 << (num_bytes - 1).bit_length())
        with self._lock:
            if free := self._free.get(size):
                return free.pop()
        return PinnedMemory(size)

    def give_back(self, memory: PinnedMemory) -> None:
        """The piece is read by nobody any more."""
        with self._lock:
            if not self._closed:
                self._free.setdefault(memory.bytes.numel(), []).append(memory)
                return
        memory.close()

    def close(self) -> None:
        """Free the pieces; those that are given back later are freed then."""
        with self._lock:
            self._closed = True
            pieces = [memory for free in self._free.values() for memory in free]
            self._free.clear()
        for memory in pieces:
            memory.close()
