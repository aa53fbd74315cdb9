"""One-shot all-reduce: each rank reads the partial sums of all ranks. For few tokens, as the ranks wait only once.

Most of its time is the latency of one read from the peers, so a program reads few columns, all of them at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.distributed.symmetric_memory import SymmetricMemory
from engine.kernels.collectives.signals import lanes, put_signal, wait_signals
from engine.kernels.pdl import grid_wait, launch_dependents

_MULTIPROCESSORS = 132  # of an H100 and an H200
_MIN_COLUMNS = 512  # of a program


@triton.jit(do_not_specialize=["seq"])
def all_reduce_kernel(
    partial_sums, flags, epoch, h, gain, out, squares, stride, seq, eps,
    DIM: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr, NORM: tl.constexpr, RANK: tl.constexpr,
    WORLD: tl.constexpr, LANES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BLOCK columns of one token, of width DIM, per program. Pointers: see `all_reduce`.

    SCALED: out = h · gain, and squares; NORM: out = norm(h) · gain, of BLOCK >= DIM columns.
    """
    i, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = part * BLOCK + tl.arange(0, BLOCK)
    mask = d < DIM
    g = tl.load(gain + d, mask=mask, other=0.0).to(tl.float32)
    grid_wait(PDL)
    launch_dependents(PDL)
    if (tl.program_id(0) == 0) & (part == 0):
        put_signal(flags, epoch, seq, RANK, WORLD)
    value = tl.load(h + i * DIM + d, mask=mask, other=0.0).to(tl.float32)
    wait_signals(flags, epoch, seq, RANK, WORLD, LANES)
    for other in tl.static_range(WORLD):
        value += tl.load(partial_sums[other] + i * DIM + d, mask=mask, other=0.0, cache_modifier=".cg").to(tl.float32)
    stored = value.to(h.dtype.element_ty)
    tl.store(h + i * DIM + d, stored, mask=mask)
    value = stored.to(tl.float32)
    sum_squares = tl.sum(value * value, 0)
    if SCALED:
        tl.store(out + i * DIM + d, (value * g).to(out.dtype.element_ty), mask=mask)
        tl.store(squares + part * stride + i, sum_squares)
    if NORM:
        tl.store(out + i * DIM + d, (value * tl.rsqrt(sum_squares / DIM + eps) * g).to(out.dtype.element_ty), mask=mask)


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
) -> int:
    """h [tokens, dim] += the partial sums of all ranks; optionally also computes the next product's input.

    partial_sums: of every rank, [≥ tokens, dim], in rank order; all in the model's dtype. gain [dim] may also be
    float32. out [tokens, dim] = RMSNorm(h) · gain. Or with `squares` float32 [≥ dim / 512, ≥ tokens], out = h · gain,
    and squares gets h's partial sums of squares. Returns how many of them there are.
    """
    dim = h.shape[-1]
    block, norm = triton.next_power_of_2(dim), out is not None and squares is None
    while not norm and block > _MIN_COLUMNS and tokens * triton.cdiv(dim, block) * 2 <= _MULTIPROCESSORS:
        block //= 2
    parts = int(triton.cdiv(dim, block))
    all_reduce_kernel[(tokens, parts)](
        partial_sums, memory.flags, memory.epoch, h, gain, out if out is not None else h,
        squares if squares is not None else h, squares.stride(0) if squares is not None else 0, seq, eps,
        DIM=dim, BLOCK=block, SCALED=squares is not None, NORM=norm,
        RANK=memory.rank, WORLD=memory.world_size, LANES=lanes(memory), PDL=pdl,
        num_warps=max(1, min(8, block // 256)), launch_pdl=pdl,
    )  # fmt: skip
    return parts
