"""Symmetric memory: an arena on every GPU that all ranks of this machine map, for all-reduce kernels without NCCL.

Each rank allocates one arena and has every rank's arena mapped, in rank order. The arenas are divided alike, so a
buffer has the same offset in each. Ranks signal their progress through flags in the arenas; `kernels/collectives`
holds the kernels and defines the signals. Where GPUs cannot access each other's memory there is no arena, and NCCL or
gloo does the collectives.

It knows memory and ranks, but neither layers nor steps.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from engine.distributed import tensor_parallel

_ALIGN: Final = 256  # bytes


class SymmetricMemory:
    """The arenas of all ranks as seen by one rank, and an allocator over them.

    `arenas`: uint8, zeroed, of equal length, in rank order. `owner` is kept alive as long as the arenas are used.
    """

    def __init__(self, rank: int, arenas: Sequence[Tensor], owner: object = None) -> None:
        self.rank, self.world_size = rank, len(arenas)
        self._arenas, self._offset, self._owner = arenas, 0, owner
        # flags[r] [world_size] lies in rank r's arena; its element s is the last collective that rank s signalled to r.
        self.flags = self.allocate((self.world_size,), torch.int32)
        # [1]: the number of collectives in all steps before this one, to which a kernel adds its own number.
        self.epoch = torch.zeros(1, dtype=torch.int32, device=arenas[rank].device)
        # [1]: programs of the running collective that have written their results.
        self.done = torch.zeros_like(self.epoch)

    def allocate(self, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The next free buffer of this shape in every rank's arena, in rank order. All ranks must make equal calls."""
        size = math.prod(shape) * dtype.itemsize
        start, self._offset = self._offset, self._offset + aligned_size(size)
        return tuple(arena[start : start + size].view(dtype).view(*shape) for arena in self._arenas)


def aligned_size(size: int) -> int:
    """Bytes of an arena that a buffer of `size` bytes takes."""
    return -(-size // _ALIGN) * _ALIGN


def create_arena(size: int, device: torch.device, rank: int) -> SymmetricMemory | None:
    """Symmetric memory with `size` bytes for buffers, or None on all ranks. All ranks must call it together."""
    group = tensor_parallel.group()
    if group is None or device.type != "cuda" or dist.get_backend(group) != "nccl":
        return None
    world_size = dist.get_world_size(group)
    if not _all_ranks_agree(_can_access_peers(device, world_size), device):
        return None
    memory = _rendezvous(size + aligned_size(4 * world_size), device, rank, group)
    agreed = _all_ranks_agree(memory is not None, device)
    torch.cuda.synchronize(device)  # every arena is zeroed before a peer writes to it
    return memory if agreed else None


def _all_ranks_agree(condition: bool, device: torch.device) -> bool:
    """Whether `condition` holds on all ranks."""
    num_against = tensor_parallel.all_reduce(torch.tensor([0 if condition else 1], device=device))
    return int(num_against) == 0


def _can_access_peers(device: torch.device, world_size: int) -> bool:
    """Whether this GPU can access all other ranks' GPUs. GUILDLLAMA_EXCHANGE=0 says no, to compare with NCCL."""
    if os.environ.get("GUILDLLAMA_EXCHANGE", "1") == "0" or torch.cuda.device_count() < world_size:
        return False
    peers = [peer for peer in range(world_size) if peer != device.index]
    return all(torch.cuda.can_device_access_peer(device, peer) for peer in peers)


def _rendezvous(size: int, device: torch.device, rank: int, group: dist.ProcessGroup) -> SymmetricMemory | None:
    """Arenas of PyTorch's symmetric memory: plain loads and stores over NVLink or PCIe, no multicast."""
    try:
        import torch.distributed._symmetric_memory as symmetric

        arena = symmetric.empty(size, dtype=torch.uint8, device=device)
        arena.zero_()
        handle = symmetric.rendezvous(arena, group)
        arenas = [handle.get_buffer(peer, (size,), torch.uint8) for peer in range(dist.get_world_size(group))]
    except (ImportError, RuntimeError, AttributeError) as error:
        sys.stderr.write(f"engine: rank {rank}: no symmetric memory between GPUs ({error}); using NCCL\n")
        return None
    return SymmetricMemory(rank, arenas, (arena, handle))
