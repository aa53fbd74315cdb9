"""Reads matrices from weight files into tensors with several threads, and decodes them.

Complete rows are read with `preadv`: directly into a CPU destination of the same dtype, else through one staging
buffer for each thread (pinned if the destination is a GPU). Column slices are copied from a memory mapping that is
closed after each read. So a load needs the memory of the parameters and little more. It knows files and encodings, but
neither tensor names nor models.
"""

import math
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, local

import numpy as np
import torch
from torch import Tensor

from engine.checkpoint.encoding import Bytes, Encoding
from engine.errors import ConfigError

_READ_BYTES = 4 << 20  # bytes read by a thread at a time; decoding takes several times as many
_GPU_READ_BYTES = 16 << 20  # the same for a GPU, undecoded: with smaller pieces the threads wait for Python's lock
_NUM_READERS = 8  # concurrent reads that keep a disk array busy
_READAHEAD_BYTES = 1 << 20  # bytes in a readahead request; Linux truncates longer ones
_NUM_READAHEAD_THREADS = 2


@dataclass(frozen=True, slots=True)
class Extent:
    """A row-major matrix in a file, `offset` bytes from its start; a vector is a matrix of one column."""

    path: Path
    offset: int
    rows: int
    cols: int
    encoding: Encoding

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.cols // self.encoding.block_size * self.encoding.block_bytes

    @property
    def end(self) -> int:
        """Offset of the byte after the last one."""
        return self.offset + self.rows * self.row_bytes

    def row_range(self, first: int, rows: int) -> "Extent":
        """The extent of some of its rows."""
        return replace(self, offset=self.offset + first * self.row_bytes, rows=rows)

    def copy(self, reader: "FileReader", out: Tensor, *, row: int = 0, col: int = 0) -> None:
        """See `FileReader.copy`."""
        reader.copy(self, out, row=row, col=col)

    def prefetch(self, reader: "FileReader", row: int, rows: int) -> None:
        """See `FileReader.prefetch`."""
        reader.prefetch(self, row, rows)


class FileReader:
    """The open files, threads and staging buffers of one checkpoint."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._opening = Lock()
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="weights")
        self._readahead = ThreadPoolExecutor(_NUM_READAHEAD_THREADS, thread_name_prefix="readahead")
        self._thread_local = local()

    def close(self) -> None:
        """Stop the threads and close the files; pending readahead is dropped."""
        self._readahead.shutdown(cancel_futures=True)
        self._readers.shutdown()
        for file in self._descriptors.values():
            os.close(file)
        self._descriptors.clear()

    def copy(self, extent: Extent, out: Tensor, *, row: int = 0, col: int = 0) -> None:
        """Fill the matrix `out` with the rectangle of the extent at (row, col). ConfigError if it cannot be read."""
        rows, cols = out.shape
        # A quantized block can only be decoded whole, so read every block that the columns overlap.
        block = extent.encoding.block_size
        first, last = col // block, math.ceil((col + cols) / block)
        width = (last - first) * extent.encoding.block_bytes
        decodes = extent.encoding.decode is not None
        step = max(1, (_GPU_READ_BYTES if out.is_cuda and not decodes else _READ_BYTES) // width)
        descriptor = self._descriptor(extent.path)
        out = out.detach()
        cuda_stream = torch.cuda.current_stream(out.device) if out.is_cuda else None

        def read(start: int) -> None:
            count = min(step, rows - start)
            target = out[start : start + count]
            offset = extent.offset + (row + start) * extent.row_bytes + first * extent.encoding.block_bytes
            with torch.inference_mode(), torch.cuda.stream(cuda_stream):
                if width == extent.row_bytes:
                    self._read_rows(descriptor, extent, offset, count * width, target, col - first * block)
                else:
                    raw = _read_strided(descriptor, offset, count, width, extent.row_bytes)
                    _copy_columns(_decode(raw, extent.encoding, count), target, col - first * block)

        # `list` waits for all reads and raises the first error.
        list(self._readers.map(read, range(0, rows, step)))

    def prefetch(self, extent: Extent, row: int, rows: int) -> None:
        """Ask the kernel to read these rows into the page cache, without waiting. Does nothing where it cannot."""
        descriptor, begin = self._descriptor(extent.path), extent.offset + row * extent.row_bytes
        end = begin + rows * extent.row_bytes

        def advise(at: int) -> None:
            os.posix_fadvise(descriptor, at, min(_READAHEAD_BYTES, end - at), os.POSIX_FADV_WILLNEED)

        if hasattr(os, "posix_fadvise"):
            for at in range(begin, end, _READAHEAD_BYTES):
                self._readahead.submit(advise, at)

    def _read_rows(
        self, descriptor: int, extent: Extent, offset: int, num_bytes: int, target: Tensor, first_col: int
    ) -> None:
        as_stored = extent.encoding.decode is None and target.dtype == extent.encoding.dtype and target.is_contiguous()
        if as_stored and target.device.type == "cpu":
            _read_into(_bytes_of(target), descriptor, offset, extent.path)
            return
        stage, last_copy = self._staging_buffer(num_bytes, pinned=target.is_cuda)
        if last_copy is not None:
            last_copy.synchronize()  # the GPU may still be copying from this buffer
        _read_into(stage.numpy(), descriptor, offset, extent.path)
        if extent.encoding.decode is None:
            _copy_columns(stage.view(extent.encoding.dtype).view(target.shape[0], -1), target, first_col)
        else:
            _copy_columns(_decode(stage.numpy(), extent.encoding, target.shape[0]), target, first_col)
        if target.is_cuda:
            self._thread_local.last_copy = torch.cuda.current_stream(target.device).record_event()

    def _staging_buffer(self, size: int, *, pinned: bool) -> tuple[Tensor, torch.cuda.Event | None]:
        """This thread's buffer, and the event after which it may be overwritten."""
        buffer: Tensor | None = getattr(self._thread_local, "buffer", None)
        if buffer is None or buffer.numel() < size or buffer.is_pinned() < pinned:
            buffer = self._thread_local.buffer = torch.empty(max(size, 1 << 20), dtype=torch.uint8, pin_memory=pinned)
            self._thread_local.last_copy = None
        return buffer[:size], getattr(self._thread_local, "last_copy", None)

    def _descriptor(self, path: Path) -> int:
        with self._opening:
            if path not in self._descriptors:
                try:
                    self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise ConfigError(path, expected="a readable file", found=str(error.strerror)) from error
            return self._descriptors[path]


def _read_into(buffer: Bytes, descriptor: int, offset: int, path: Path) -> None:
    """Fill `buffer` from the file; ConfigError at its end or on an I/O error."""
    view = buffer.data
    while view:
        try:
            got = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise ConfigError(path, expected="a readable file", found=str(error.strerror)) from error
        if got == 0:
            raise ConfigError(path, expected=f"{len(view)} more bytes", found=f"the end of the file at byte {offset}")
        view, offset = view[got:], offset + got


def _read_strided(descriptor: int, offset: int, count: int, width: int, stride: int) -> Bytes:
    """[count, width] bytes: the first `width` bytes of each row, where rows are `stride` bytes apart."""
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    length = offset + (count - 1) * stride + width - start
    with mmap.mmap(descriptor, length, offset=start, access=mmap.ACCESS_READ) as mapping:
        mapping.madvise(mmap.MADV_WILLNEED)
        rows = np.ndarray((count, width), np.uint8, mapping, offset - start, (stride, 1))
        copy = rows.copy()
        del rows  # the mapping cannot be closed while an array refers to it
    return copy


def _decode(raw: Bytes, encoding: Encoding, rows: int) -> Tensor:
    if encoding.decode is None:
        return torch.from_numpy(raw).view(-1).view(encoding.dtype).view(rows, -1)
    return torch.from_numpy(encoding.decode(raw.reshape(-1, encoding.block_bytes))).view(rows, -1)


def _copy_columns(weights: Tensor, target: Tensor, first_col: int) -> None:
    target.copy_(weights[:, first_col : first_col + target.shape[1]], non_blocking=True)


def _bytes_of(tensor: Tensor) -> Bytes:
    raw: Bytes = tensor.view(-1).view(torch.uint8).numpy()
    return raw
