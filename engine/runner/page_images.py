"""Whole pages as bytes, on their way between the KV pool and files.

The bytes of a page are those of the pool's parts for it, one after the other. It knows tensors, and neither files nor
who uses a page.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class PageImages:
    """Copies of pages in the host's memory. From a GPU they may still be on their way until `ready`."""

    def __init__(
        self, parts: Sequence[Tensor], ready: torch.cuda.Event | None = None, device: torch.device | None = None
    ) -> None:
        """`parts` [pages, …] are contiguous; `device` is the GPU of `ready`."""
        self._parts, self._ready, self._device = parts, ready, device

    def page(self, index: int) -> bytes:
        """The bytes of one page; waits until they are there. Any thread may call it."""
        if self._ready is not None:
            torch.cuda.set_device(self._device)  # of this thread, which would else use the first GPU as well
            self._ready.synchronize()
        return b"".join(part[index].reshape(-1).view(torch.uint8).numpy().tobytes() for part in self._parts)


def page_bytes(parts: Sequence[Tensor]) -> int:
    """Bytes of one page of a pool with these parts."""
    return sum(part[0].numel() * part.itemsize for part in parts)


def split_image(image: bytes, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """The bytes of a page as one tensor for each part of the pool."""
    data, at = torch.frombuffer(bytearray(image), dtype=torch.uint8), 0
    for part in parts:
        size = part[0].numel() * part.itemsize
        yield data[at : at + size].view(part.dtype).view(part.shape[1:])
        at += size
