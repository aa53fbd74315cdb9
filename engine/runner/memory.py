"""How many bytes a device has left, how many this rank holds, and how many KV pages and slots of the host tier fit.

It knows sizes only, and neither the pages' contents nor who uses them.
"""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from engine.checkpoint import ModelSpec
from engine.config import EngineConfig
from engine.distributed.tensor_parallel import kv_heads
from engine.errors import ConfigError
from engine.runner.host_memory import available_host_bytes

GPU_MEMORY_FRACTION = 0.94  # of a GPU's memory; the rest is for the driver, graphs and fragmentation
CPU_MEMORY_FRACTION = 0.25  # of the memory that is free at start
CPU_MAX_KV_BYTES = 2 << 30  # for keys and values on a CPU, unless CPU_MIN_CONTEXTS needs more
CPU_MIN_CONTEXTS = 2  # a CPU holds at least this many full contexts where they fit, whatever the fraction says
CPU_CONTEXT_FRACTION = 0.5  # of the memory that is free at start, for CPU_MIN_CONTEXTS contexts
GPU_BUFFER_BYTES = 1 << 30  # left for activations and recorded steps when the limits are chosen
ROW_TOKENS = 1024  # of KV cache for each row, when the number of rows is chosen
ROW_COUNTS = (8, 16, 32, 64, 96, 128, 192, 256)  # to choose from
HOST_MEMORY_FRACTION = 0.5  # of the memory that is free at start, for the host tier of the ranks on GPUs
HOST_MAX_SLOTS = 1 << 18  # of each rank; for models so small that more would fit, more would be of no use
_GIB = 1 << 30


def kv_storage(config: EngineConfig) -> torch.dtype:
    """The dtype in which the pages hold keys and values."""
    return {"int8": torch.int8, "fp8": torch.float8_e4m3fn}.get(config.kv_dtype, config.dtype)


def kv_bytes_per_page(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes of one page on one rank: keys and values of all layers."""
    return config.page_size * kv_bytes_per_token(spec, config.world_size, kv_storage(config))


def kv_bytes_per_token(spec: ModelSpec, world_size: int, storage: torch.dtype) -> int:
    """Bytes of one token's keys and values on one rank, all layers. int8 vectors have a two-byte scale each."""
    vector_bytes = spec.head_dim * storage.itemsize + (2 if storage == torch.int8 else 0)
    return 2 * spec.n_layers * kv_heads(spec, world_size) * vector_bytes


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached - (1 - GPU_MEMORY_FRACTION) * total)
    return available_host_bytes()


def allocated_bytes(device: torch.device) -> int:
    """Bytes that this rank holds on the device; on a CPU, the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


def fit_limits(
    config: EngineConfig, spec: ModelSpec, free_bytes: int, min_over_ranks: Callable[[int], int] = int
) -> EngineConfig:
    """The rows and the context that the user left open, lowered to what the KV cache can hold in `free_bytes`.

    `min_over_ranks` returns the smallest of all ranks' numbers. Call it when the weights are loaded.
    """
    page_bytes = kv_bytes_per_page(spec, config)
    if config.num_kv_pages is not None:
        pages = context_pages = config.num_kv_pages
    elif config.device.type == "cuda":
        pages = context_pages = (free_bytes - GPU_BUFFER_BYTES) // page_bytes
    else:
        pages = free_bytes // (page_bytes * config.world_size)
        context_pages = int(pages * CPU_CONTEXT_FRACTION) // CPU_MIN_CONTEXTS
    tokens = min_over_ranks(max(1, pages)) * config.page_size
    context = min_over_ranks(max(1, context_pages)) * config.page_size
    if config.fits_context:
        config = replace(config, max_context=min(config.max_context, max(config.page_size, context)))
    if config.fits_rows:
        rows = max((count for count in ROW_COUNTS if count * ROW_TOKENS <= tokens), default=ROW_COUNTS[0])
        config = replace(config, max_num_seqs=min(config.max_num_seqs, rows))
    return config


def fit_pages(config: EngineConfig, page_bytes: int, free_bytes: int) -> int:
    """KV pages for this rank: the number that --kv-memory asks for, else as many as fit and can be of use.

    Raises ConfigError when they do not hold one request of the full context, or do not fit.
    """
    min_pages = config.max_pages_per_seq
    # With more pages than this the prefix cache would not grow any further.
    max_useful_pages = (config.max_num_seqs * 2 + 2) * config.max_pages_per_seq
    if config.num_kv_pages is not None:
        num_pages = config.num_kv_pages
        if num_pages * page_bytes > free_bytes:
            raise ConfigError(
                "--kv-memory", expected=f"at most {_gib(free_bytes)}, what is free", found=_gib(num_pages * page_bytes)
            )
    elif config.device.type == "cuda":
        num_pages = free_bytes // page_bytes
    else:
        all_ranks_page_bytes = page_bytes * config.world_size  # CPU ranks share one memory
        wanted = min(int(free_bytes * CPU_MEMORY_FRACTION), CPU_MAX_KV_BYTES) // all_ranks_page_bytes
        num_pages = min(max(wanted, CPU_MIN_CONTEXTS * min_pages), free_bytes // all_ranks_page_bytes, max_useful_pages)
    if num_pages < min_pages and config.num_kv_pages is not None:
        raise ConfigError(
            "--kv-memory",
            expected=f"room for at least {config.max_context} tokens, the longest request (--max-seq-len)",
            found=f"room for {num_pages * config.page_size}",
        )
    if num_pages < min_pages:
        fits = max(0, num_pages) * config.page_size
        raise ConfigError(
            "--max-seq-len",
            expected=f"at most {fits}, as many tokens as the free memory caches",
            found=f"{config.max_context}, which needs {_gib(min_pages * page_bytes)} for keys and values",
        )
    return num_pages


def fit_host_slots(config: EngineConfig, page_bytes: int, free_bytes: int) -> int:
    """Slots of the host tier for this rank: the number that --kv-host-memory asks for, else a share of the free memory.

    On a CPU, pages are in the host's memory anyway: none. Raises ConfigError when they do not fit.
    """
    all_ranks_page_bytes = page_bytes * config.world_size  # the ranks share one memory
    if config.num_host_slots is None:
        share = int(free_bytes * HOST_MEMORY_FRACTION) if config.device.type == "cuda" else 0
        return min(share // all_ranks_page_bytes, HOST_MAX_SLOTS)
    wanted = config.num_host_slots * all_ranks_page_bytes
    if wanted > free_bytes:
        raise ConfigError("--kv-host-memory", expected=f"at most {_gib(free_bytes)}, what is free", found=_gib(wanted))
    return config.num_host_slots


def pages_in(size: str, spec: ModelSpec, config: EngineConfig) -> int:
    """The pages in `8GiB` of KV cache on each rank, or for a plain number of tokens. Raises ConfigError."""
    if re.fullmatch(r"\d+(\.\d+)?", size):
        return -(-int(float(size)) // config.page_size)
    num_bytes = _bytes(size)
    if num_bytes is None:
        raise ConfigError("--kv-memory", expected="a size such as 8GiB or 512MiB, or a number of tokens", found=size)
    return num_bytes // kv_bytes_per_page(spec, config)


def host_slots_in(size: str, spec: ModelSpec, config: EngineConfig) -> int | None:
    """The slots of each rank in `32GiB` of the host's memory, which the ranks share; None for `auto`; ConfigError."""
    if size in ("auto", "0"):
        return None if size == "auto" else 0
    num_bytes = _bytes(size)
    if num_bytes is None:
        raise ConfigError("--kv-host-memory", expected="auto, 0, or a size such as 32GiB or 512MiB", found=size)
    page_bytes = kv_bytes_per_page(spec, config) * config.world_size
    if num_bytes < page_bytes:
        expected = f"0, or at least {-(-page_bytes // (1 << 20))}MiB, as much as one page needs"
        raise ConfigError("--kv-host-memory", expected=expected, found=size)
    return num_bytes // page_bytes


def store_bytes_in(size: str) -> int:
    """The bytes in `4GiB`; ConfigError for anything else."""
    num_bytes = _bytes(size)
    if not num_bytes:
        raise ConfigError("--kv-dir-size", expected="a size such as 4GiB or 512MiB", found=size)
    return num_bytes


def _bytes(size: str) -> int | None:
    """The bytes in `8GiB` or `512MiB`; None for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(GiB|MiB)", size)
    return None if match is None else int(float(match[1]) * (1 << (30 if match[2] == "GiB" else 20)))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
