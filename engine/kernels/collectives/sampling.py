"""The collectives around sampling: rank 0 gathers the columns of the logits, samples, and broadcasts the ids."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.distributed.symmetric_memory import SymmetricMemory
from engine.kernels.collectives.signals import lanes, put_signal, wait_signals
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit(do_not_specialize=["seq"])
def gather_logits_kernel(
    parts, flags, epoch, out, seq,
    WIDTH: tl.constexpr, TOTAL: tl.constexpr, BLOCK: tl.constexpr, RANK: tl.constexpr, WORLD: tl.constexpr,
    LANES: tl.constexpr, LEADS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """LEADS (rank 0): BLOCK columns of one row per program, of every rank. Other ranks: one program, which signals.

    Pointers: see `gather_logits`. TOTAL columns, WIDTH of each rank but the last.
    """
    grid_wait(PDL)
    launch_dependents(PDL)
    if LEADS:
        row = tl.program_id(0).to(tl.int64)
        c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        wait_signals(flags, epoch, seq, RANK, WORLD, LANES)
        for other in tl.static_range(WORLD):
            columns = tl.minimum(WIDTH, TOTAL - other * WIDTH)
            mask = c < columns
            value = tl.load(parts[other] + row * columns + c, mask=mask, other=0.0, cache_modifier=".cg")
            tl.store(out + row * TOTAL + other * WIDTH + c, value, mask=mask)
    else:
        put_signal(flags, epoch, seq, RANK, WORLD)


@triton.jit(do_not_specialize=["seq"])
def broadcast_ids_kernel(
    parts, flags, epoch, out, seq, n,
    BLOCK: tl.constexpr, RANK: tl.constexpr, WORLD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program; BLOCK >= n. Pointers: see `broadcast_ids`."""
    grid_wait(PDL)
    launch_dependents(PDL)
    if RANK == 0:
        put_signal(flags, epoch, seq, RANK, WORLD)
    else:
        wait_signals(flags, epoch, seq, RANK, 1, 1)
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(parts[0] + i, mask=i < n, other=0, cache_modifier=".cg"), mask=i < n)


def gather_logits(
    memory: SymmetricMemory, parts: tuple[torch.Tensor, ...], out: torch.Tensor, rows: int, width: int, seq: int,
    *, pdl: bool = False,
) -> None:  # fmt: skip
    """On rank 0, out float32 [rows, total] = the ranks' columns side by side; the others signal that theirs are ready.

    parts: of every rank, float32 [rows, columns]; each has `width` columns, the last one those that are left.
    """
    leads, total = memory.rank == 0, out.shape[-1]
    block = min(2048, triton.next_power_of_2(width))
    gather_logits_kernel[(rows, triton.cdiv(width, block)) if leads else (1, 1)](
        parts, memory.flags, memory.epoch, out, seq,
        WIDTH=width, TOTAL=total, BLOCK=block, RANK=memory.rank, WORLD=memory.world_size, LANES=lanes(memory),
        LEADS=leads, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def broadcast_ids(
    memory: SymmetricMemory,
    parts: tuple[torch.Tensor, ...],
    out: torch.Tensor,
    count: int,
    seq: int,
    *,
    pdl: bool = False,
) -> None:
    """out[:count] = rank 0's part, on every rank; parts: of every rank, int32 [≥ count]."""
    broadcast_ids_kernel[(1,)](
        parts, memory.flags, memory.epoch, out, seq, count,
        BLOCK=triton.next_power_of_2(count), RANK=memory.rank, WORLD=memory.world_size, PDL=pdl,
        num_warps=1, launch_pdl=pdl,
    )  # fmt: skip
