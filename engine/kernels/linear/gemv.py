"""GEMV: one token times a weight matrix, as fast as the matrix can be read from memory.

One program computes one or two rows of the result (for the gated feed-forward, a gate row and its up row). It can also
do the work of the neighbouring kernels: the RMSNorm of its input, the SiLU gate, the residual sum, and on several ranks
sending its results to the others. It knows nothing of layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.activation import gate_product
from engine.kernels.collectives.packets import packet
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def row_products(
    x, gain, value_weight, value, w, up, residual, residual_up, eps,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, PAIR: tl.constexpr, RESIDUAL: tl.constexpr,
    DEFERRED: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """(w · norm(x), up · norm(x), residual, residual_up), four floats, accumulated in float32.

    x, w, up [K]; `up` is read with PAIR only. With NORM, norm(x) = RMSNorm(x) · gain [K], else x. With RESIDUAL the two
    scalars that the residual pointers point to are returned, else 0. DEFERRED: x, made of heads of D elements, gets
    value_weight [K / D] · value [K / G], G heads sharing a head of the value, added first.
    """
    cols = tl.arange(0, BLOCK)
    # The first blocks of weights are loaded before the input exists: with the usual block sizes, all or nearly all.
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
    if RESIDUAL:  # loaded now, so that the wait overlaps with the product
        old = tl.load(residual).to(tl.float32)
        old_up = tl.load(residual_up).to(tl.float32)
    acc = tl.zeros([BLOCK], tl.float32)
    acc_up = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for block in tl.static_range(0, (K + BLOCK - 1) // BLOCK):
        at = block * BLOCK + cols
        element = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
        if DEFERRED:
            new = tl.load(value + at // (G * D) * D + at % D, mask=at < K, other=0.0).to(tl.float32)
            element += tl.load(value_weight + at // D, mask=at < K, other=0.0) * new
        if NORM:
            squares += element * element
            element = element * tl.load(gain + at, mask=at < K, other=0.0).to(tl.float32)
        if block == 0:
            wb = w0
        elif block == 1:
            wb = w1
        elif block == 2:
            wb = w2
        else:
            wb = tl.load(w + at, mask=at < K, other=0.0, eviction_policy="evict_first")
        acc += element * wb.to(tl.float32)
        if PAIR:
            if block == 0:
                ub = u0
            elif block == 1:
                ub = u1
            else:
                ub = tl.load(up + at, mask=at < K, other=0.0, eviction_policy="evict_first")
            acc_up += element * ub.to(tl.float32)
    scale = 1.0
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, 0) / K + eps)
    return tl.sum(acc, 0) * scale, tl.sum(acc_up, 0) * scale, old, old_up


@triton.jit(do_not_specialize=["seq"])
def gemv_kernel(
    x, gain, weight, out, value_weight, value, inboxes, epoch, seq, n_rows, eps,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr,
    TWO: tl.constexpr, DEFERRED: tl.constexpr, G: tl.constexpr, D: tl.constexpr, RANK: tl.constexpr,
    WORLD: tl.constexpr, GELU: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row of the result per program, or with TWO two neighbouring ones. Pointers: see `gemv`.

    weight [n_rows or with GATED 2 · n_rows, K] is read BLOCK columns at a time. NORM, RESIDUAL, DEFERRED, G, D: see
    `row_products`. GELU: of the gate. RANK and WORLD: whose result it is, and in how many inboxes to put it (1: none).
    """
    row = tl.program_id(0)
    if TWO:
        row = row * 2
    apart = n_rows
    if TWO:
        apart = 1
    w = weight + row.to(tl.int64) * K
    up = w + tl.full([], K, tl.int64) * apart
    second = out + row + (1 if TWO else 0)
    total, total_up, old, old_up = row_products(
        x, gain, value_weight, value, w, up, out + row, second, eps,
        K, BLOCK, NORM, GATED or TWO, RESIDUAL, DEFERRED, G, D, PDL,
    )  # fmt: skip
    if GATED:
        total = gate_product(total, total_up, GELU)
    tl.store(out + row, (total + old).to(out.dtype.element_ty))
    if TWO:
        tl.store(second, (total_up + old_up).to(out.dtype.element_ty))
    if WORLD > 1:
        now = tl.load(epoch) + seq
        for other in tl.static_range(WORLD):
            if other != RANK:
                tl.store(inboxes[other] + RANK * n_rows + row, packet(total, now))
                if TWO:
                    tl.store(inboxes[other] + RANK * n_rows + row + 1, packet(total_up, now))


@dataclass(frozen=True, slots=True)
class Push:
    """Where a GEMV sends its results besides `out`, for `all_reduce_row` number `seq` of the step.

    inboxes: of every rank, int64 [world size, N]; epoch int32 [1]; see `collectives/packets.py`.
    """

    inboxes: tuple[torch.Tensor, ...]
    epoch: torch.Tensor
    seq: int
    rank: int


@dataclass(frozen=True, slots=True)
class DeferredValue:
    """The second term of a GEMV's input x [1, heads · head_dim]: x += weight (by head) · value (by kv head).

    weight float32 [heads]; value [1, kv heads · head_dim]; `group_size` heads share a kv head. See `fused_decode.py`.
    """

    weight: torch.Tensor
    value: torch.Tensor
    group_size: int
    head_dim: int


def gemv(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    gelu: bool = False,
    residual: bool = False,
    pdl: bool = False,
    block: int | None = None,
    warps: int | None = None,
    two_rows: bool = False,
    deferred: DeferredValue | None = None,
    push: Push | None = None,
) -> None:
    """out [1, N] = norm(x [1, K]) · weightᵀ; any dtypes, contiguous, accumulated in float32.

    weight [N, K]; with `gated` [2 · N, K], gate rows before up rows, and out = silu(gate) · up, or with `gelu`
    gelu(gate) · up. norm: RMSNorm with `gain` [K], if given. `residual`: out += …. `two_rows`: two rows per program,
    where that is possible. With `push`, out is float32 and holds this rank's partial sum. Quantized weights: see
    `eight_bit_gemv.py` and `int4/gemv.py`.
    """
    rows, k = weight.shape
    n = rows // 2 if gated else rows
    block = block or min(2048, triton.next_power_of_2(k))
    two_rows = two_rows and not gated and n % 2 == 0
    gemv_kernel[(n // 2 if two_rows else n,)](
        x, gain if gain is not None else x, weight, out,
        deferred.weight if deferred else x, deferred.value if deferred else x,
        push.inboxes if push else (x,), push.epoch if push else x, push.seq if push else 0, n, eps,
        K=k, BLOCK=block, NORM=gain is not None, GATED=gated, RESIDUAL=residual, TWO=two_rows,
        DEFERRED=deferred is not None, G=deferred.group_size if deferred else 1, D=deferred.head_dim if deferred else 1,
        RANK=push.rank if push else 0, WORLD=len(push.inboxes) if push else 1, GELU=gelu, PDL=pdl,
        num_warps=warps or max(1, min(8, block // 256)), launch_pdl=pdl,
    )  # fmt: skip
