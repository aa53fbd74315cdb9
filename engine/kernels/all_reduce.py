"""Collectives inside a step, in memory that all ranks can read and write (`engine/distributed/symmetric_memory.py`).

The collectives of a step are numbered from 1 (`seq`); `epoch` counts those of all steps before. A rank that reaches a
collective writes epoch + seq into a flag that each peer keeps for it (`put_signal`); a peer that has seen the flag
(`wait_signal`) may read what the rank wrote before. Partial sums alternate between two buffers, which is enough: a rank
that writes the first one again has waited for all ranks to reach the second, so they have finished reading the first.

The sum of one row needs no flags. The rank that computes an element of its partial sum writes it into the peers'
inboxes itself, as a packet of 8 bytes that arrives whole: the float and epoch + seq, which the reader waits for.

All ranks add in rank order, so all get the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.distributed.symmetric_memory import SymmetricMemory
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def put_signal(flags, epoch, seq, RANK: tl.constexpr, WORLD: tl.constexpr):
    """Tell all other ranks that this rank has reached collective `seq`, and that what it wrote before can be read.

    flags: of every rank, int32 [WORLD]; flags[r][s] is what rank s last signalled to rank r. epoch int32 [1].
    """
    now = tl.load(epoch) + seq
    for other in tl.static_range(WORLD):
        if other != RANK:
            tl.atomic_xchg(flags[other] + RANK, now, sem="release", scope="sys")


@triton.jit
def wait_signal(flags, epoch, seq, other: tl.constexpr, RANK: tl.constexpr):
    """Wait until rank `other` has reached collective `seq`. The subtraction stays right when the counter overflows."""
    now = tl.load(epoch) + seq
    seen = tl.atomic_add(flags[RANK] + other, 0, sem="acquire", scope="sys")
    while seen - now < 0:
        seen = tl.atomic_add(flags[RANK] + other, 0, sem="acquire", scope="sys")


@triton.jit(do_not_specialize=["seq"])
def all_reduce_kernel(
    partial_sums, flags, epoch, h, gain, out, squares, seq, eps,
    DIM: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr, NORM: tl.constexpr, RANK: tl.constexpr,
    WORLD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token of width DIM <= BLOCK per program. Pointers: see `all_reduce`.

    SCALED: out = h · gain, and squares; NORM: out = norm(h) · gain.
    """
    i = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    mask = d < DIM
    g = tl.load(gain + d, mask=mask, other=0.0).to(tl.float32)
    grid_wait(PDL)
    launch_dependents(PDL)
    if tl.program_id(0) == 0:
        put_signal(flags, epoch, seq, RANK, WORLD)
    value = tl.load(h + i * DIM + d, mask=mask, other=0.0).to(tl.float32)
    for other in tl.static_range(WORLD):
        if other != RANK:
            wait_signal(flags, epoch, seq, other, RANK)
    for other in tl.static_range(WORLD):
        value += tl.load(partial_sums[other] + i * DIM + d, mask=mask, other=0.0, cache_modifier=".cg").to(tl.float32)
    stored = value.to(h.dtype.element_ty)
    tl.store(h + i * DIM + d, stored, mask=mask)
    value = stored.to(tl.float32)
    sum_squares = tl.sum(value * value, 0)
    if SCALED:
        tl.store(out + i * DIM + d, (value * g).to(out.dtype.element_ty), mask=mask)
        tl.store(squares + i, sum_squares)
    if NORM:
        tl.store(out + i * DIM + d, (value * tl.rsqrt(sum_squares / DIM + eps) * g).to(out.dtype.element_ty), mask=mask)


@triton.jit
def packet(value, now):
    """int64: a float32 in the low half, and epoch + seq in the high half."""
    bits = value.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
    return (bits & 0xFFFFFFFF) | (now.to(tl.int64) << 32)


@triton.jit(do_not_specialize=["seq"])
def all_reduce_row_kernel(
    local, inboxes, epoch, h, seq,
    DIM: tl.constexpr, BLOCK: tl.constexpr, RANK: tl.constexpr, WORLD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BLOCK of DIM elements per program. Pointers: see `all_reduce_row`."""
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = d < DIM
    grid_wait(PDL)
    launch_dependents(PDL)
    now = tl.load(epoch) + seq
    value = tl.load(h + d, mask=mask, other=0.0).to(tl.float32)
    for other in tl.static_range(WORLD):
        if other == RANK:
            value += tl.load(local + d, mask=mask, other=0.0)
        else:
            inbox = inboxes[RANK] + other * DIM + d
            received = tl.load(inbox, mask=mask, other=now.to(tl.int64) << 32, volatile=True)
            while tl.max(((received >> 32).to(tl.int32) != now).to(tl.int32), 0) > 0:
                received = tl.load(inbox, mask=mask, other=now.to(tl.int64) << 32, volatile=True)
            value += (received & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
    tl.store(h + d, value.to(h.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seq"])
def gather_logits_kernel(
    parts, flags, epoch, out, seq,
    WIDTH: tl.constexpr, TOTAL: tl.constexpr, BLOCK: tl.constexpr, RANK: tl.constexpr, WORLD: tl.constexpr,
    LEADS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """LEADS (rank 0): BLOCK columns of one row per program, of every rank. Other ranks: one program, which signals.

    Pointers: see `gather_logits`. TOTAL columns, WIDTH of each rank but the last.
    """
    grid_wait(PDL)
    launch_dependents(PDL)
    if LEADS:
        row = tl.program_id(0).to(tl.int64)
        c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        for other in tl.static_range(WORLD):
            if other != RANK:
                wait_signal(flags, epoch, seq, other, RANK)
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
        wait_signal(flags, epoch, seq, 0, RANK)
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(parts[0] + i, mask=i < n, other=0, cache_modifier=".cg"), mask=i < n)


def all_reduce(
    memory: SymmetricMemory,
    partial_sums: tuple[torch.Tensor, ...],
    h: torch.Tensor,
    gain: torch.Tensor,
    tokens: int,
    seq: int,
    *,
    out: torch.Tensor | None = None,
    squares: torch.Tensor | None = None,
    eps: float = 0.0,
    pdl: bool = False,
) -> None:
    """h [tokens, dim] += the partial sums of all ranks; and what the next product reads of it.

    partial_sums: of every rank, [≥ tokens, dim], in rank order; all in the model's dtype. gain [dim] may also be
    float32. out [tokens, dim] = RMSNorm(h) · gain, or with `squares` float32 [tokens] = h · gain, and squares its sums
    of squares.
    """
    dim = h.shape[-1]
    block = triton.next_power_of_2(dim)
    all_reduce_kernel[(tokens,)](
        partial_sums, memory.flags, memory.epoch, h, gain, out if out is not None else h,
        squares if squares is not None else h, seq, eps,
        DIM=dim, BLOCK=block, SCALED=squares is not None, NORM=out is not None and squares is None,
        RANK=memory.rank, WORLD=memory.world_size, PDL=pdl, num_warps=max(1, min(8, block // 256)), launch_pdl=pdl,
    )  # fmt: skip


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
        DIM=dim, BLOCK=block, RANK=memory.rank, WORLD=memory.world_size, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def gather_logits(
    memory: SymmetricMemory, parts: tuple[torch.Tensor, ...], out: torch.Tensor, rows: int, width: int, seq: int,
    *, pdl: bool = False,
) -> None:  # fmt: skip
    """On rank 0, out float32 [rows, total] = the ranks' columns side by side; other ranks signal that theirs are ready.

    parts: of every rank, float32 [rows, width], the last rank's with the columns that are left.
    """
    leads, total = memory.rank == 0, out.shape[-1]
    block = min(2048, triton.next_power_of_2(width))
    gather_logits_kernel[(rows, triton.cdiv(width, block)) if leads else (1, 1)](
        parts, memory.flags, memory.epoch, out, seq,
        WIDTH=width, TOTAL=total, BLOCK=block, RANK=memory.rank, WORLD=memory.world_size, LEADS=leads, PDL=pdl,
        num_warps=4, launch_pdl=pdl,
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
