"""Memory that every rank of this machine can read and write: how GPUs sum up without a library call in between.

Each rank owns one arena; all ranks know the arenas of all, in rank order, cut into the same parts. Which rank has got
how far stands in flags: a counter that only grows, one for each pair. The kernels that use all this are in
`kernels/exchange.py`. Where GPUs cannot reach each other's memory there is no exchange, and NCCL or gloo sums instead.

It knows memory and ranks, and neither layers nor steps.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from engine.distributed import tensor_parallel

_ALIGN = 256


class SymmetricMemory:
    """`arenas`: uint8, zeroed, equally long, of all ranks; `keep` is held as long as they are used."""

    def __init__(self, rank: int, arenas: Sequence[Tensor], owner: object = None) -> None:
        self.rank, self.world_size = rank, len(arenas)
        self._arenas, self._at, self._owner = arenas, 0, owner
        self.flags = self.allocate(
            (self.world_size,), torch.int32
        )  # flags[r][s]: how far rank s has got, as rank r was told
        self.epoch = torch.zeros(1, dtype=torch.int32, device=arenas[rank].device)  # sites passed in all steps so far

    def allocate(self, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The next part of every rank's arena, in rank order."""
        size = math.prod(shape) * dtype.itemsize
        start, self._at = self._at, self._at + aligned_size(size)
        return tuple(arena[start : start + size].view(dtype).view(*shape) for arena in self._arenas)


def aligned_size(size: int) -> int:
    """Bytes that a part of so many takes in an arena."""
    return -(-size // _ALIGN) * _ALIGN


def create_arena(size: int, device: torch.device, rank: int) -> SymmetricMemory | None:
    """Called by all ranks at once: an exchange with `size` bytes for parts, or None on all of them."""
    ranks = tensor_parallel.group()
    if ranks is None or device.type != "cuda" or dist.get_backend(ranks) != "nccl":
        return None
    if not _all_ranks_agree(_can_access_peers(device, dist.get_world_size(ranks)), device):
        return None
    found = _symmetric(size + aligned_size(4 * dist.get_world_size(ranks)), device, rank, ranks)
    agreed = _all_ranks_agree(found is not None, device)
    torch.cuda.synchronize(device)  # every arena is zeroed before anyone writes to it
    return found if agreed else None


def _all_ranks_agree(mine: bool, device: torch.device) -> bool:
    """Whether it holds on all ranks."""
    others = tensor_parallel.all_reduce(torch.tensor([0 if mine else 1], device=device))
    return int(others) == 0


def _can_access_peers(device: torch.device, world: int) -> bool:
    """Whether this rank's GPU can reach all others; not if somebody wants to compare with NCCL."""
    if os.environ.get("GUILDLLAMA_EXCHANGE", "1") == "0" or torch.cuda.device_count() < world:
        return False
    others = [other for other in range(world) if other != device.index]
    return all(torch.cuda.can_device_access_peer(device, other) for other in others)


def _symmetric(size: int, device: torch.device, rank: int, ranks: dist.ProcessGroup) -> SymmetricMemory | None:
    """PyTorch's symmetric memory; plain loads and stores over NVLink or PCIe, no multicast."""
    try:
        import torch.distributed._symmetric_memory as symmetric

        arena = symmetric.empty(size, dtype=torch.uint8, device=device)
        arena.zero_()
        handle = symmetric.rendezvous(arena, ranks)
        arenas = [handle.get_buffer(other, (size,), torch.uint8) for other in range(dist.get_world_size(ranks))]
    except (ImportError, RuntimeError, AttributeError) as error:
        sys.stderr.write(f"engine: rank {rank}: no memory shared between GPUs ({error}); NCCL sums instead\n")
        return None
    return SymmetricMemory(rank, arenas, (arena, handle))
