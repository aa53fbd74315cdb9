"""Two-shot all-reduce, for the many tokens of a prompt: a reduce-scatter and an all-gather with the norm between them.

Each rank sums a consecutive share of the tokens, adds it to the residual stream, normalizes it and writes the result to
all ranks. So a rank receives 2 · (world size - 1) / world size times the bytes of a partial sum, and world size - 1
times in a one-shot all-reduce. It takes two collective numbers: by the first, ranks signal that their partial sums are
ready, and by the second that their results are. A rank that has seen all signals of the second knows that its partial
sums were read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.distributed.symmetric_memory import SymmetricMemory
from engine.kernels.collectives.signals import lanes, put_signal, wait_signals
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit(do_not_specialize=["seq", "tokens"])
def two_shot_all_reduce_kernel(
    partial_sums, flags, epoch, done, h, gain, out, seq, tokens, eps,
    DIM: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, WHOLE: tl.constexpr, RANK: tl.constexpr,
    WORLD: tl.constexpr, LANES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One of this rank's tokens, of width DIM <= BLOCK, per program. Pointers: see `two_shot_all_reduce`.

    done int32 [1]: how many programs have written their results; 0 before and after.
    """
    i = (tl.cdiv(tokens, WORLD) * RANK + tl.program_id(0)).to(tl.int64)
    d = tl.arange(0, BLOCK)
    g = tl.load(gain + d, mask=d < DIM, other=0.0).to(tl.float32)
    grid_wait(PDL)
    launch_dependents(PDL)
    if tl.program_id(0) == 0:
        put_signal(flags, epoch, seq, RANK, WORLD)
    mask = (d < DIM) & (i < tokens)
    value = tl.load(h[RANK] + i * DIM + d, mask=mask, other=0.0).to(tl.float32)
    wait_signals(flags, epoch, seq, RANK, WORLD, LANES)
    for other in tl.static_range(WORLD):
        value += tl.load(partial_sums[other] + i * DIM + d, mask=mask, other=0.0, cache_modifier=".cg").to(tl.float32)
    stored = value.to(h[RANK].dtype.element_ty)
    for other in tl.static_range(WORLD):
        if WHOLE or other == RANK:
            tl.store(h[other] + i * DIM + d, stored, mask=mask)
    if NORM:
        value = stored.to(tl.float32)
        value = value * tl.rsqrt(tl.sum(value * value, 0) / DIM + eps) * g
        for other in tl.static_range(WORLD):
            tl.store(out[other] + i * DIM + d, value.to(out[other].dtype.element_ty), mask=mask)
    tl.debug_barrier()  # all threads have written before one of them says so
    if tl.atomic_add(done, 1, sem="acq_rel", scope="sys") == tl.num_programs(0) - 1:
        tl.atomic_xchg(done, 0)
        put_signal(flags, epoch, seq + 1, RANK, WORLD)
        wait_signals(flags, epoch, seq + 1, RANK, WORLD, LANES)


def two_shot_all_reduce(
    memory: SymmetricMemory,
    partial_sums: tuple[torch.Tensor, ...],
    h: tuple[torch.Tensor, ...],
    gain: torch.Tensor,
    tokens: int,
    seq: int,
    *,
    out: tuple[torch.Tensor, ...] | None = None,
    whole: bool = False,
    eps: float = 0.0,
    pdl: bool = False,
) -> None:
    """h += the partial sums of all ranks, as collectives `seq` and seq + 1; see the module for how.

    partial_sums, h, out: of every rank, [≥ tokens, dim]; gain [dim]. With `out`, out [tokens, dim] = RMSNorm(h) · gain
    on all ranks. In rank order, each rank sums cdiv(tokens, world size) tokens. Its h is right for these alone, which
    is all that the next call reads of it; with `whole` it is right for all tokens.
    """
    dim = h[0].shape[-1]
    block, world_size = triton.next_power_of_2(dim), memory.world_size
    share = triton.cdiv(tokens, world_size)
    own = min(share, tokens - share * memory.rank)
    two_shot_all_reduce_kernel[(max(1, own),)](
        partial_sums, memory.flags, memory.epoch, memory.done, h, gain, out if out is not None else h, seq, tokens, eps,
        DIM=dim, BLOCK=block, NORM=out is not None, WHOLE=whole, RANK=memory.rank, WORLD=world_size,
        LANES=lanes(memory), PDL=pdl, num_warps=max(1, min(8, block // 256)), launch_pdl=pdl,
    )  # fmt: skip
