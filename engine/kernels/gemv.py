"""One token through a weight matrix, at the speed at which the matrix can be read.

One program computes one output row or two (for the gated feed-forward: a gate row and its up row). Around the product
it can do what a neighbouring kernel would otherwise be launched for: the RMS norm of its input, the SiLU gate, the
residual sum. Knows nothing of layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.all_reduce import packet
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def row_products(
    x, gain, share, own, w, up, before, before_up, eps,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, PAIR: tl.constexpr, RESIDUAL: tl.constexpr,
    JOIN: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The products of the rows at `w` and, with PAIR, at `up` with norm(x); and what stands at the two `before`."""
    cols = tl.arange(0, BLOCK)
    # The first blocks are asked for before the input exists: with the usual block sizes all or nearly all of the rows.
    w0 = tl.load(w + cols, mask=cols < K, other=0.0, eviction_policy="evict_first")
    w1 = tl.load(w + BLOCK + cols, mask=BLOCK + cols < K, other=0.0, eviction_policy="evict_first")
    if K > 2 * BLOCK:
        w2 = tl.load(w + 2 * BLOCK + cols, mask=2 * BLOCK + cols < K, other=0.0, eviction_policy="evict_first")
    if PAIR:
        u0 = tl.load(up + cols, mask=cols < K, other=0.0, eviction_policy="evict_first")
        u1 = tl.load(up + BLOCK + cols, mask=BLOCK + cols < K, other=0.0, eviction_policy="evict_first")
    grid_wait(PDL)
    launch_dependents(PDL)
    old = 0.0
    old_up = 0.0
    if RESIDUAL:  # asked for now, not when the product is done
        old = tl.load(before).to(tl.float32)
        old_up = tl.load(before_up).to(tl.float32)
    acc = tl.zeros([BLOCK], tl.float32)
    acc_up = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for block in tl.static_range(0, (K + BLOCK - 1) // BLOCK):
        at = block * BLOCK + cols
        value = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
        if JOIN:
            new = tl.load(own + at // (G * D) * D + at % D, mask=at < K, other=0.0).to(tl.float32)
            value += tl.load(share + at // D, mask=at < K, other=0.0) * new
        if NORM:
            squares += value * value
            value = value * tl.load(gain + at, mask=at < K, other=0.0).to(tl.float32)
        if block == 0:
            wb = w0
        elif block == 1:
            wb = w1
        elif block == 2:
            wb = w2
        else:
            wb = tl.load(w + at, mask=at < K, other=0.0, eviction_policy="evict_first")
        acc += value * wb.to(tl.float32)
        if PAIR:
            if block == 0:
                ub = u0
            elif block == 1:
                ub = u1
            else:
                ub = tl.load(up + at, mask=at < K, other=0.0, eviction_policy="evict_first")
            acc_up += value * ub.to(tl.float32)
    factor = 1.0
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, 0) / K + eps)
    return tl.sum(acc, 0) * factor, tl.sum(acc_up, 0) * factor, old, old_up


@triton.jit(do_not_specialize=["site"])
def gemv_kernel(
    x, gain, weight, out, share, own, boxes, epoch, site, n_rows, eps,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr, RESIDUAL: tl.constexpr,
    TWO: tl.constexpr, JOIN: tl.constexpr, G: tl.constexpr, D: tl.constexpr, RANK: tl.constexpr,
    WORLD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    if TWO:
        row = row * 2
    apart = n_rows
    if TWO:
        apart = 1
    w = weight + row.to(tl.int64) * K
    up = w + tl.full([], K, tl.int64) * apart
    beside = out + row + (1 if TWO else 0)
    total, total_up, old, old_up = row_products(
        x, gain, share, own, w, up, out + row, beside, eps, K, BLOCK, NORM, SILU or TWO, RESIDUAL, JOIN, G, D, PDL
    )
    if SILU:
        total = total / (1.0 + tl.exp(-total)) * total_up
    tl.store(out + row, (total + old).to(out.dtype.element_ty))
    if TWO:
        tl.store(beside, (total_up + old_up).to(out.dtype.element_ty))
    if WORLD > 1:
        now = tl.load(epoch) + site
        for other in tl.static_range(WORLD):
            if other != RANK:
                tl.store(boxes[other] + RANK * n_rows + row, packet(total, now))
                if TWO:
                    tl.store(boxes[other] + RANK * n_rows + row + 1, packet(total_up, now))


@dataclass(frozen=True, slots=True)
class Push:
    """Where one row's share of a sum goes besides `out`: packets into the peers' boxes [world, N]."""

    boxes: tuple[torch.Tensor, ...]
    epoch: torch.Tensor
    site: int
    rank: int


@dataclass(frozen=True, slots=True)
class DeferredValue:
    """An input in two parts: x[i] + share[i's head] * own[i's key/value head]; see `one_row.py`."""

    share: torch.Tensor
    own: torch.Tensor
    group: int
    head_dim: int


def gemv(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
    silu: bool = False,
    residual: bool = False,
    pdl: bool = False,
    block: int | None = None,
    warps: int | None = None,
    two_rows: bool = False,
    deferred: DeferredValue | None = None,
    push: Push | None = None,
) -> None:
    """out[1, N] = weight · norm(x[1, K]); `silu`: weight holds the gate's rows, then the up rows; `residual`: out += …

    `two`: each program computes two rows, unless it does so for the gate. `push`: out is this rank's share of a sum, in
    32 bits, and goes into the other ranks' boxes too. Packed weights have their own: `narrow_gemv`.
    """
    rows, k = weight.shape
    n = rows // 2 if silu else rows
    block = block or min(2048, triton.next_power_of_2(k))
    two_rows = two_rows and not silu and n % 2 == 0
    gemv_kernel[(n // 2 if two_rows else n,)](
        x, gain if gain is not None else x, weight, out,
        deferred.share if deferred else x, deferred.own if deferred else x,
        push.boxes if push else (x,), push.epoch if push else x, push.site if push else 0, n, eps,
        K=k, BLOCK=block, NORM=gain is not None, SILU=silu, RESIDUAL=residual, TWO=two_rows,
        JOIN=deferred is not None, G=deferred.group if deferred else 1, D=deferred.head_dim if deferred else 1,
        RANK=push.rank if push else 0, WORLD=len(push.boxes) if push else 1, PDL=pdl,
        num_warps=warps or max(1, min(8, block // 256)), launch_pdl=pdl,
    )  # fmt: skip
