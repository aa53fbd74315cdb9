"""How much memory there is, how much a rank holds, and how many KV pages that makes."""

import os
from pathlib import Path

import torch

from engine.checkpoint import ModelSpec
from engine.config import EngineConfig
from engine.distributed.tensor_parallel import kv_heads
from engine.errors import ConfigError

GPU_SHARE = 0.94  # of a GPU's memory; the rest is for the driver, graphs and fragmentation
CPU_SHARE = 0.25  # of the memory that is free at start
CPU_MOST = 2 << 30  # bytes for keys and values on a CPU, unless one needs more for its contexts
CPU_CONTEXTS = 2  # CPU: at least this many full contexts where that fits, whatever the share
_GIB = 1 << 30


def kv_storage(config: EngineConfig) -> torch.dtype:
    """What keys and values are kept in."""
    return {"int8": torch.int8, "fp8": torch.float8_e4m3fn}.get(config.kv_dtype, config.dtype)


def kv_bytes_per_page(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes that one page takes on one rank, all layers, keys and values."""
    return config.page_size * kv_bytes_per_token(spec, config.world_size, kv_storage(config))


def kv_bytes_per_token(spec: ModelSpec, world_size: int, storage: torch.dtype) -> int:
    """With int8, each key and each value has a scale of two bytes beside it."""
    vector = spec.head_dim * storage.itemsize + (2 if storage == torch.int8 else 0)
    return 2 * spec.n_layers * kv_heads(spec, world_size) * vector


def available_bytes(device: torch.device) -> int:
    """What could still be allocated on the device."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused - (1 - GPU_SHARE) * total)
    free = _meminfo("MemAvailable")
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    return min(free, limit - used) if limit is not None and used is not None else free


def allocated_bytes(device: torch.device) -> int:
    """What this rank holds on the device."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def fit_pages(config: EngineConfig, page_bytes: int, available: int) -> int:
    """KV pages for this rank: what was asked for, or what fits and can be of use. ConfigError when it is too little."""
    useful = (
        config.max_num_seqs * 2 + 2
    ) * config.max_pages_per_seq  # beyond that the prefix cache could not grow any more
    least = config.max_pages_per_seq
    if config.num_kv_pages is not None:
        pages = config.num_kv_pages
        if pages * page_bytes > available:
            raise ConfigError(
                "--kv-memory", expected=f"at most {_gib(available)}, what is free", found=_gib(pages * page_bytes)
            )
    elif config.device.type == "cuda":
        pages = available // page_bytes
    else:
        share = min(int(available * CPU_SHARE), CPU_MOST) // (page_bytes * config.world_size)
        pages = min(max(share, CPU_CONTEXTS * least), available // (page_bytes * config.world_size), useful)
    if pages < least and config.num_kv_pages is not None:
        raise ConfigError(
            "--kv-memory",
            expected=f"room for at least {config.max_context} tokens, the longest request (--max-seq-len)",
            found=f"room for {pages * config.page_size}",
        )
    if pages < least:
        fits = max(0, pages) * config.page_size
        raise ConfigError(
            "--max-seq-len",
            expected=f"at most {fits}, as many tokens as the free memory caches",
            found=f"{config.max_context}, which needs {_gib(least * page_bytes)} for keys and values",
        )
    return pages


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB"


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _cgroup(name: str) -> int | None:
    try:
        text = Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
