"""Bytes of weight files into tensors: several readers at once, no byte twice, nothing left in memory.

Whole rows are read at their place in the file, straight into the destination where it can take them as they are, else
through a staging buffer of each reader (pinned, if the destination is a GPU). Column slices are copied out of a
mapping that lives for one piece only. Nothing is mapped for longer, so a load costs the parameters and little else.
"""

import math
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

import numpy as np
import torch
from torch import Tensor

from engine.checkpoint.encoding import Bytes, Encoding
from engine.errors import ConfigError

_PIECE = 4 << 20  # bytes that one reader takes at a time
_READERS = 8  # enough requests in flight to keep a disk array busy
_ADVICE = 1 << 20  # bytes that the system can be asked to read ahead at a time; Linux cuts longer requests short
_ADVISERS = 2


@dataclass(frozen=True, slots=True)
class Extent:
    """A matrix (or vector, as a matrix of one column) stored row by row at a place in a file."""

    path: Path
    offset: int
    rows: int
    cols: int
    encoding: Encoding

    @property
    def row_bytes(self) -> int:
        return self.cols // self.encoding.block * self.encoding.size

    @property
    def end(self) -> int:
        return self.offset + self.rows * self.row_bytes


class FileReader:
    """Open files, threads and staging buffers of one load."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="weights")
        self._advisers = ThreadPoolExecutor(_ADVISERS, thread_name_prefix="readahead")
        self._mine = local()

    def close(self) -> None:
        self._advisers.shutdown(cancel_futures=True)
        self._threads.shutdown()
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def copy(self, extent: Extent, out: Tensor, *, row: int = 0, col: int = 0) -> None:
        """Fill the matrix `out` with the part of the extent that begins at (row, col)."""
        rows, cols = out.shape
        # A quantised block is decoded whole, so the columns read are those of the blocks touched.
        block = extent.encoding.block
        first, last = col // block, math.ceil((col + cols) / block)
        width = (last - first) * extent.encoding.size
        step = max(1, _PIECE // width)
        file = self._file(extent.path)
        out = out.detach()
        cuda_stream = torch.cuda.current_stream(out.device) if out.is_cuda else None

        def one(start: int) -> None:
            count = min(step, rows - start)
            target = out[start : start + count]
            begin = extent.offset + (row + start) * extent.row_bytes + first * extent.encoding.size
            with torch.inference_mode(), torch.cuda.stream(cuda_stream):
                if width == extent.row_bytes:
                    self._whole_rows(file, extent, begin, count * width, target, col - first * block)
                else:
                    raw = _strided(file, begin, count, width, extent.row_bytes)
                    _store(_decode(raw, extent.encoding, count), target, col - first * block)

        # `list` waits for all pieces and raises the first failure.
        list(self._threads.map(one, range(0, rows, step)))

    def prefetch(self, extent: Extent, row: int, rows: int) -> None:
        """Have the system read these rows into its cache, in the background."""
        file, begin = self._file(extent.path), extent.offset + row * extent.row_bytes
        end = begin + rows * extent.row_bytes

        def advise(at: int) -> None:
            os.posix_fadvise(file, at, min(_ADVICE, end - at), os.POSIX_FADV_WILLNEED)

        if hasattr(os, "posix_fadvise"):
            for at in range(begin, end, _ADVICE):
                self._advisers.submit(advise, at)

    def _whole_rows(self, file: int, extent: Extent, begin: int, size: int, target: Tensor, skip: int) -> None:
        plain = extent.encoding.decode is None and target.dtype == extent.encoding.dtype and target.is_contiguous()
        if plain and target.device.type == "cpu":
            _read(file, begin, _bytes_of(target), extent.path)
            return
        stage, used = self._stage(size, pinned=target.is_cuda)
        if used is not None:
            used.synchronize()  # the copy that left this buffer last must be through before it is filled again
        _read(file, begin, stage.numpy(), extent.path)
        if extent.encoding.decode is None:
            _store(stage.view(extent.encoding.dtype).view(target.shape[0], -1), target, skip)
        else:
            _store(_decode(stage.numpy(), extent.encoding, target.shape[0]), target, skip)
        if target.is_cuda:
            self._mine.used = torch.cuda.current_stream(target.device).record_event()

    def _stage(self, size: int, *, pinned: bool) -> tuple[Tensor, torch.cuda.Event | None]:
        """This thread's buffer, and the event after which it may be written."""
        buffer: Tensor | None = getattr(self._mine, "buffer", None)
        if buffer is None or buffer.numel() < size or buffer.is_pinned() < pinned:
            buffer = self._mine.buffer = torch.empty(max(size, 1 << 20), dtype=torch.uint8, pin_memory=pinned)
            self._mine.used = None
        return buffer[:size], getattr(self._mine, "used", None)

    def _file(self, path: Path) -> int:
        if path not in self._files:
            try:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ConfigError(path, expected="a readable file", found=str(error.strerror)) from error
        return self._files[path]


def _read(file: int, offset: int, into: Bytes, path: Path) -> None:
    view = into.data
    while view:
        try:
            got = os.preadv(file, [view], offset)
        except OSError as error:
            raise ConfigError(path, expected="a readable file", found=str(error.strerror)) from error
        if got == 0:
            raise ConfigError(path, expected=f"{len(view)} more bytes", found=f"the end of the file at byte {offset}")
        view, offset = view[got:], offset + got


def _strided(file: int, begin: int, count: int, width: int, stride: int) -> Bytes:
    """The first `width` bytes of each of `count` rows that lie `stride` bytes apart."""
    start = begin - begin % mmap.ALLOCATIONGRANULARITY
    length = begin + (count - 1) * stride + width - start
    with mmap.mmap(file, length, offset=start, access=mmap.ACCESS_READ) as mapping:
        mapping.madvise(mmap.MADV_WILLNEED)
        rows = np.ndarray((count, width), np.uint8, mapping, begin - start, (stride, 1))
        copy = rows.copy()
        del rows  # the mapping cannot be closed while an array looks into it
    return copy


def _decode(raw: Bytes, encoding: Encoding, rows: int) -> Tensor:
    if encoding.decode is None:
        return torch.from_numpy(raw).view(-1).view(encoding.dtype).view(rows, -1)
    return torch.from_numpy(encoding.decode(raw.reshape(-1, encoding.size))).view(rows, -1)


def _store(weights: Tensor, target: Tensor, skip: int) -> None:
    target.copy_(weights[:, skip : skip + target.shape[1]], non_blocking=True)


def _bytes_of(tensor: Tensor) -> Bytes:
    raw: Bytes = tensor.view(-1).view(torch.uint8).numpy()
    return raw
