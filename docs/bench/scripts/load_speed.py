"""Measures how fast a checkpoint is loaded onto a device, and how fast the disk delivers its bytes.

    python docs/bench/scripts/load_speed.py DIR [--device cuda] [--world-size N] [--once]

Files are dropped from the page cache before each cold measurement. Rank 0's slices are read into memory allocated
beforehand, split as the model splits them. Prints one JSON line.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from engine.checkpoint import Checkpoint, open_checkpoint, tensor_shapes

_READ_BYTES = 8 << 20
_SAMPLE_BYTES = 4 << 30  # enough to measure a disk with --once


def evict(files: Sequence[Path]) -> None:
    """Drop the files from the page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # only clean pages can be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk_speed(files: Sequence[Path], readers: int, max_bytes: int | None = None) -> float:
    """Bytes a second of reading the first `max_bytes` of each file with some threads."""
    evict(files)
    buffers = [bytearray(_READ_BYTES) for _ in range(readers)]
    sizes = [min(file.stat().st_size, max_bytes or sys.maxsize) for file in files]
    start = time.perf_counter()
    for file, size in zip(files, sizes, strict=True):
        descriptor = os.open(file, os.O_RDONLY)

        def read(reader: int, size: int = size, descriptor: int = descriptor) -> None:
            for offset in range(reader * _READ_BYTES, size, readers * _READ_BYTES):
                os.preadv(descriptor, [buffers[reader]], offset)

        with ThreadPoolExecutor(readers) as threads:
            list(threads.map(read, range(readers)))
        os.close(descriptor)
    return sum(sizes) / (time.perf_counter() - start)


def load(checkpoint: Checkpoint, device: str, dtype: torch.dtype, world_size: int) -> tuple[int, float]:
    """Bytes of rank 0's shard, and the seconds that loading took."""
    split_columns = ("wo.weight", "w2.weight")
    replicated = ("norm.weight", "tok_embeddings.weight")
    jobs = []
    for name, shape in tensor_shapes(checkpoint.spec).items():
        dim = None if name.endswith(replicated) or world_size == 1 else 1 if name.endswith(split_columns) else 0
        local = [size // world_size if d == dim else size for d, size in enumerate(shape)]
        jobs.append((name, torch.zeros(local, dtype=dtype, device=device), dim))
    start = time.perf_counter()
    for name, out, dim in jobs:
        checkpoint.copy_into(name, out, dim=dim)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return sum(out.nbytes for _, out, _ in jobs), time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="load_speed.py")
    parser.add_argument("path", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--once", action="store_true", help="eight readers on a sample of the files, and one cold load")
    given = parser.parse_args(arguments)
    files = sorted(file for file in given.path.iterdir() if file.suffix in {".pth", ".safetensors", ".gguf"})
    readers, max_bytes = ((8,), _SAMPLE_BYTES // len(files)) if given.once else ((1, 4, 8, 16), None)
    figures = {f"disk_{count}_gb_s": disk_speed(files, count, max_bytes) / 1e9 for count in readers}
    checkpoint = open_checkpoint(given.path)
    dtype = checkpoint.spec.dtype
    for name, cold in (("cold", True), ("warm", False))[: 1 if given.once else 2]:
        if cold:
            evict(files)
        size, seconds = load(checkpoint, given.device, dtype, given.world_size)
        figures |= {f"{name}_gb": size / 1e9, f"{name}_s": seconds, f"{name}_gb_s": size / 1e9 / seconds}
        torch.cuda.empty_cache()
    checkpoint.close()
    figures["peak_host_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
