"""Memory that Linux may back with pages of 2 MiB instead of 4 KiB.

A step reads all weights once, from end to end. With small pages the processor spends most of that time on looking up
their addresses, the more so on a virtual machine, where each look-up is two. It knows memory, and not what lies there.
"""

import ctypes
import mmap

import torch
from torch import Tensor

HUGE_PAGE = 2 << 20  # bytes
CHUNK_BYTES = 16 * HUGE_PAGE
ALIGNMENT = 64  # bytes of a cache line, and of the widest register


class HugePageArena:
    """Hands out pieces of large chunks, since most matrices of a small model are smaller than a page.

    A chunk is freed with the last tensor in it. What is not written to takes no memory.
    """

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def empty(self, size: int) -> Tensor:
        """Uninitialized bytes [size], from the beginning of a cache line on."""
        needed = -(-size // ALIGNMENT) * ALIGNMENT
        if needed > len(self._free):
            self._free = _aligned_chunk(max(needed, CHUNK_BYTES))
        piece, self._free = self._free[:size], self._free[needed:]
        return piece


def advise(tensor: Tensor) -> None:
    """Ask for huge pages where the tensor fills whole ones. Best before anything is written to it.

    A kernel without them refuses, which changes nothing but the speed.
    """
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    first, last = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
    advice = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux has it
    if advice is not None and last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def _aligned_chunk(size: int) -> Tensor:
    """Bytes from the beginning of a huge page on."""
    chunk = torch.empty(size + HUGE_PAGE, dtype=torch.uint8)
    advise(chunk)
    return chunk[-chunk.data_ptr() % HUGE_PAGE :][:size]
