"""What ranks do with each other's memory inside a step: sum, collect, spread. See `engine/exchange.py`.

A meeting of the ranks is a site; the sites of a step are numbered from 1, and `epoch` counts those of all steps before.
To say "I have got to this site" is to write its number into the flag that a peer keeps for one. Whoever is told so may
read what the teller wrote before. Two buffers in turn are enough for what is summed: who writes the first one again
has been told that everybody is at the second, and so has finished reading the first.

One row goes the short way: whoever computes an element of the sum writes it into the peers' memory itself, as 8 bytes
with its site's number inside, which arrive together or not at all; the reader waits for the number.

All ranks add in rank order, so all get the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.distributed.symmetric_memory import SymmetricMemory
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def put_signal(flags, epoch, site, RANK: tl.constexpr, WORLD: tl.constexpr):
    """To all others: this rank has got to the site, and everything it wrote before can be read."""
    now = tl.load(epoch) + site
    for other in tl.static_range(WORLD):
        if other != RANK:
            tl.atomic_xchg(flags[other] + RANK, now, sem="release", scope="sys")


@triton.jit
def wait_signal(flags, epoch, site, other: tl.constexpr, RANK: tl.constexpr):
    """Wait until that rank has got to the site. The difference is right across the counter's overflow."""
    now = tl.load(epoch) + site
    seen = tl.atomic_add(flags[RANK] + other, 0, sem="acquire", scope="sys")
    while seen - now < 0:
        seen = tl.atomic_add(flags[RANK] + other, 0, sem="acquire", scope="sys")


@triton.jit(do_not_specialize=["site"])
def all_reduce_kernel(
    deltas, flags, epoch, h, gain, out, squares, site, eps,
    DIM: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr, NORM: tl.constexpr, RANK: tl.constexpr,
    WORLD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A token per program: h += all ranks' deltas; out = h · gain with h's sum of squares, or the norm of h."""
    i = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    ok = d < DIM
    g = tl.load(gain + d, mask=ok, other=0.0).to(tl.float32)
    grid_wait(PDL)
    launch_dependents(PDL)
    if tl.program_id(0) == 0:
        put_signal(flags, epoch, site, RANK, WORLD)
    value = tl.load(h + i * DIM + d, mask=ok, other=0.0).to(tl.float32)
    for other in tl.static_range(WORLD):
        if other != RANK:
            wait_signal(flags, epoch, site, other, RANK)
    for other in tl.static_range(WORLD):
        value += tl.load(deltas[other] + i * DIM + d, mask=ok, other=0.0, cache_modifier=".cg").to(tl.float32)
    kept = value.to(h.dtype.element_ty)
    tl.store(h + i * DIM + d, kept, mask=ok)
    value = kept.to(tl.float32)
    mass = tl.sum(value * value, 0)
    if SCALED:
        tl.store(out + i * DIM + d, (value * g).to(out.dtype.element_ty), mask=ok)
        tl.store(squares + i, mass)
    if NORM:
        tl.store(out + i * DIM + d, (value * tl.rsqrt(mass / DIM + eps) * g).to(out.dtype.element_ty), mask=ok)


@triton.jit
def packet(value, now):
    """A float and its site's number in 8 bytes."""
    bits = value.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
    return (bits & 0xFFFFFFFF) | (now.to(tl.int64) << 32)


@triton.jit(do_not_specialize=["site"])
def all_reduce_row_kernel(
    own, boxes, epoch, h, site,
    DIM: tl.constexpr, BLOCK: tl.constexpr, RANK: tl.constexpr, WORLD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row: h += this rank's share and those that the others have put into this rank's boxes."""
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = d < DIM
    grid_wait(PDL)
    launch_dependents(PDL)
    now = tl.load(epoch) + site
    value = tl.load(h + d, mask=ok, other=0.0).to(tl.float32)
    for other in tl.static_range(WORLD):
        if other == RANK:
            value += tl.load(own + d, mask=ok, other=0.0)
        else:
            box = boxes[RANK] + other * DIM + d
            held = tl.load(box, mask=ok, other=now.to(tl.int64) << 32, volatile=True)
            while tl.max(((held >> 32).to(tl.int32) != now).to(tl.int32), 0) > 0:
                held = tl.load(box, mask=ok, other=now.to(tl.int64) << 32, volatile=True)
            value += (held & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
    tl.store(h + d, value.to(h.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["site"])
def gather_logits_kernel(
    parts, flags, epoch, out, site,
    WIDTH: tl.constexpr, TOTAL: tl.constexpr, BLOCK: tl.constexpr, RANK: tl.constexpr, WORLD: tl.constexpr,
    LEADS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rank 0: out [R, TOTAL] = all ranks' columns side by side, WIDTH of each but the last. The others say: there."""
    grid_wait(PDL)
    launch_dependents(PDL)
    if LEADS:
        row = tl.program_id(0).to(tl.int64)
        c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        for other in tl.static_range(WORLD):
            if other != RANK:
                wait_signal(flags, epoch, site, other, RANK)
            columns = tl.minimum(WIDTH, TOTAL - other * WIDTH)
            ok = c < columns
            value = tl.load(parts[other] + row * columns + c, mask=ok, other=0.0, cache_modifier=".cg")
            tl.store(out + row * TOTAL + other * WIDTH + c, value, mask=ok)
    else:
        put_signal(flags, epoch, site, RANK, WORLD)


@triton.jit(do_not_specialize=["site"])
def broadcast_ids_kernel(
    parts, flags, epoch, out, site, n,
    BLOCK: tl.constexpr, RANK: tl.constexpr, WORLD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rank 0's n ids on every rank."""
    grid_wait(PDL)
    launch_dependents(PDL)
    if RANK == 0:
        put_signal(flags, epoch, site, RANK, WORLD)
    else:
        wait_signal(flags, epoch, site, 0, RANK)
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(parts[0] + i, mask=i < n, other=0, cache_modifier=".cg"), mask=i < n)


def all_reduce(
    exchange: SymmetricMemory,
    deltas: tuple[torch.Tensor, ...],
    h: torch.Tensor,
    gain: torch.Tensor,
    tokens: int,
    site: int,
    *,
    out: torch.Tensor | None = None,
    squares: torch.Tensor | None = None,
    eps: float = 0.0,
    pdl: bool = False,
) -> None:
    """h [tokens, dim] += all deltas. out = norm(h) · gain, or with `squares` h · gain and its sums of squares."""
    dim = h.shape[-1]
    block = triton.next_power_of_2(dim)
    all_reduce_kernel[(tokens,)](
        deltas, exchange.flags, exchange.epoch, h, gain, out if out is not None else h,
        squares if squares is not None else h, site, eps,
        DIM=dim, BLOCK=block, SCALED=squares is not None, NORM=out is not None and squares is None,
        RANK=exchange.rank, WORLD=exchange.world_size, PDL=pdl, num_warps=max(1, min(8, block // 256)), launch_pdl=pdl,
    )  # fmt: skip


def all_reduce_row(
    exchange: SymmetricMemory,
    own: torch.Tensor,
    boxes: tuple[torch.Tensor, ...],
    h: torch.Tensor,
    site: int,
    *,
    pdl: bool = False,
) -> None:
    """h [1, dim] += own [dim] and what the others have put into boxes[this rank] [world, dim]."""
    dim = h.shape[-1]
    block = min(512, triton.next_power_of_2(dim))
    all_reduce_row_kernel[(triton.cdiv(dim, block),)](
        own, boxes, exchange.epoch, h, site,
        DIM=dim, BLOCK=block, RANK=exchange.rank, WORLD=exchange.world_size, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def gather_logits(
    exchange: SymmetricMemory, parts: tuple[torch.Tensor, ...], out: torch.Tensor, rows: int, width: int, site: int,
    *, pdl: bool = False,
) -> None:  # fmt: skip
    """On rank 0, out [rows, total] from all ranks' parts [rows, width or what is left]; elsewhere, nothing."""
    leads, total = exchange.rank == 0, out.shape[-1]
    block = min(2048, triton.next_power_of_2(width))
    gather_logits_kernel[(rows, triton.cdiv(width, block)) if leads else (1, 1)](
        parts, exchange.flags, exchange.epoch, out, site,
        WIDTH=width, TOTAL=total, BLOCK=block, RANK=exchange.rank, WORLD=exchange.world_size, LEADS=leads, PDL=pdl,
        num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def broadcast_ids(
    exchange: SymmetricMemory,
    parts: tuple[torch.Tensor, ...],
    out: torch.Tensor,
    count: int,
    site: int,
    *,
    pdl: bool = False,
) -> None:
    """out[:count] = rank 0's part, on every rank."""
    broadcast_ids_kernel[(1,)](
        parts, exchange.flags, exchange.epoch, out, site, count,
        BLOCK=triton.next_power_of_2(count), RANK=exchange.rank, WORLD=exchange.world_size, PDL=pdl,
        num_warps=1, launch_pdl=pdl,
    )  # fmt: skip
