"""The all-reduce of one row, without flags: a value arrives together with the number that its reader waits for.

The GEMV that computes an element of a rank's partial sum writes it into the peers' inboxes itself, as a packet of 8
bytes: the float and epoch + seq.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.distributed.symmetric_memory import SymmetricMemory
from engine.kernels.collectives.signals import lanes
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def packet(value, now):
    """int64: a float32 in the low half, and epoch + seq in the high half."""
    bits = value.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
    return (bits & 0xFFFFFFFF) | (now.to(tl.int64) << 32)


@triton.jit(do_not_specialize=["seq"])
def all_reduce_row_kernel(
    local, inboxes, epoch, h, seq,
    DIM: tl.constexpr, BLOCK: tl.constexpr, RANK: tl.constexpr, WORLD: tl.constexpr, LANES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """BLOCK of DIM elements per program. Pointers: see `all_reduce_row`."""
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = d < DIM
    other = tl.arange(0, LANES)[:, None]
    needed = (other < WORLD) & (other != RANK) & mask[None, :]
    inbox = inboxes[RANK] + other * DIM + d[None, :]
    grid_wait(PDL)
    launch_dependents(PDL)
    now = tl.load(epoch) + seq
    nothing = now.to(tl.int64) << 32
    received = tl.load(inbox, mask=needed, other=nothing, volatile=True)
    own = tl.load(local + d, mask=mask, other=0.0)
    value = tl.load(h + d, mask=mask, other=0.0).to(tl.float32)
    while tl.max(tl.max(((received >> 32).to(tl.int32) != now).to(tl.int32), 0), 0) > 0:
        received = tl.load(inbox, mask=needed, other=nothing, volatile=True)
    parts = (received & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
    value += tl.sum(tl.where(other == RANK, own[None, :], parts), 0)
    tl.store(h + d, value.to(h.dtype.element_ty), mask=mask)


def all_reduce_row(
    memory: SymmetricMemory,
    local: torch.Tensor,
    inboxes: tuple[torch.Tensor, ...],
    h: torch.Tensor,
    seq: int,
    *,
    pdl: bool = False,
) -> None:
    """h [1, dim] += local float32 [dim] and the packets that the other ranks' GEMVs have put into this rank's inbox.

    inboxes: of every rank, int64 [world size, dim].
    """
    dim = h.shape[-1]
    block = min(512, triton.next_power_of_2(dim))
    all_reduce_row_kernel[(triton.cdiv(dim, block),)](
        local, inboxes, memory.epoch, h, seq,
        DIM=dim, BLOCK=block, RANK=memory.rank, WORLD=memory.world_size, LANES=lanes(memory), PDL=pdl, num_warps=4,
        launch_pdl=pdl,
    )  # fmt: skip
