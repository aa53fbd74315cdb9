"""One token through a weight matrix, at the speed at which the matrix can be read.

One program computes one output row (for the gated feed-forward: one gate row and its up row). Around the product it
can do what a neighbouring kernel would otherwise be launched for: the RMS norm of its input, the SiLU gate, the
residual sum. Knows nothing of layers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import release, wait


@triton.jit
def gemv_kernel(
    x, gain, weight, out, n_rows, eps,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr, RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    w = weight + row.to(tl.int64) * K
    up = w + n_rows.to(tl.int64) * K
    # The first three blocks are asked for before the input exists: all of the row, with the usual block sizes.
    w0 = tl.load(w + cols, mask=cols < K, other=0.0, eviction_policy="evict_first")
    w1 = tl.load(w + BLOCK + cols, mask=BLOCK + cols < K, other=0.0, eviction_policy="evict_first")
    if K > 2 * BLOCK:
        w2 = tl.load(w + 2 * BLOCK + cols, mask=2 * BLOCK + cols < K, other=0.0, eviction_policy="evict_first")
    if SILU:
        u0 = tl.load(up + cols, mask=cols < K, other=0.0, eviction_policy="evict_first")
        u1 = tl.load(up + BLOCK + cols, mask=BLOCK + cols < K, other=0.0, eviction_policy="evict_first")
    wait(PDL)
    release(PDL)
    before = tl.load(out + row).to(tl.float32) if RESIDUAL else 0.0
    acc = tl.zeros([BLOCK], tl.float32)
    acc_up = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for block in tl.static_range(0, (K + BLOCK - 1) // BLOCK):
        at = block * BLOCK + cols
        value = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
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
        if SILU:
            if block == 0:
                ub = u0
            elif block == 1:
                ub = u1
            else:
                ub = tl.load(up + at, mask=at < K, other=0.0, eviction_policy="evict_first")
            acc_up += value * ub.to(tl.float32)
    total = tl.sum(acc, 0)
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        total = total * factor
    if SILU:
        total_up = tl.sum(acc_up, 0)
        if NORM:
            total_up = total_up * factor
        total = total / (1.0 + tl.exp(-total)) * total_up
    if RESIDUAL:
        total += before
    tl.store(out + row, total.to(out.dtype.element_ty))


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
) -> None:
    """out[1, N] = weight · norm(x[1, K]); `silu`: weight holds the gate's rows, then the up rows; `residual`: out += ….
    Packed weights have their own: `narrow_gemv`."""
    rows, k = weight.shape
    n = rows // 2 if silu else rows
    block = block or min(2048, triton.next_power_of_2(k))
    gemv_kernel[(n,)](
        x, gain if gain is not None else x, weight, out, n, eps,
        K=k, BLOCK=block, NORM=gain is not None, SILU=silu, RESIDUAL=residual, PDL=pdl,
        num_warps=warps or max(1, min(8, block // 256)), launch_pdl=pdl,
    )  # fmt: skip
