"""How a GEMM for a few tokens ends: splits of K are summed, then come the rows' scales, norm, gate and residual sum.

`matmul.py` explains the splits, the norm and the partial sums of squares.
"""

from __future__ import annotations

import triton
import triton.language as tl

from engine.kernels.activation import gate_product


@triton.jit
def sum_splits(acc, acc_up, partial_sums, counters, tile, split, SPLIT: tl.constexpr, GATE: tl.constexpr):
    """(whether this program is the tile's last, acc, acc_up), float32 [BN, BM]: summed over splits if it is.

    partial_sums float32 [tiles, SPLIT, BN, BM] (with GATE [2 · BN]), so that the last program reads one run;
    counters int32 [tiles], zero before and after.
    """
    BN: tl.constexpr = acc.shape[0]
    BM: tl.constexpr = acc.shape[1]
    wide: tl.constexpr = 2 if GATE else 1
    in_tile = tl.arange(0, BN)[:, None] * BM + tl.arange(0, BM)[None, :]
    own = partial_sums + (tile.to(tl.int64) * SPLIT + split) * (wide * BN * BM)
    tl.store(own + in_tile, acc)
    if GATE:
        tl.store(own + BN * BM + in_tile, acc_up)
    tl.debug_barrier()
    arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
    last = arrived == SPLIT - 1
    if last:
        tl.store(counters + tile, 0)
        acc = tl.zeros([BN, BM], tl.float32)
        acc_up = tl.zeros([BN, BM], tl.float32)
        for other in tl.static_range(SPLIT):
            theirs = partial_sums + (tile.to(tl.int64) * SPLIT + other) * (wide * BN * BM)
            acc += tl.load(theirs + in_tile, cache_modifier=".cg")
            if GATE:
                acc_up += tl.load(theirs + BN * BM + in_tile, cache_modifier=".cg")
    return last, acc, acc_up


@triton.jit
def store_tile(
    acc, acc_up, row_scales, inv_rms, residual, g, out, scaled, squares_out, at, rows, live, tile, N,
    KIND: tl.constexpr, NORM: tl.constexpr, SCALED: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """Store a tile's result. acc, acc_up float32 [BN, BM]; rows, live [BN]; at [BN, BM]: where its elements lie in out.

    SCALED: row_scales float32 by weight row; NORM: inv_rms [1, BM]; KIND 2: residual [BN, BM] and gain g [BN] as
    loaded. The pointers are those of `matmul`.
    """
    BM: tl.constexpr = acc.shape[1]
    if SCALED:
        acc = acc * tl.load(row_scales + rows, mask=live, other=0.0)[:, None]
    if NORM:
        acc = acc * inv_rms
    if KIND == 1:
        if SCALED:
            acc_up = acc_up * tl.load(row_scales + N + rows, mask=live, other=0.0)[:, None]
        if NORM:
            acc_up = acc_up * inv_rms
        acc = gate_product(acc, acc_up, GELU)
    if KIND == 2:
        acc += residual.to(tl.float32)
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=live[:, None])
        tl.store(scaled + at, (acc * g[:, None]).to(scaled.dtype.element_ty), mask=live[:, None])
        total = tl.sum(tl.where(live[:, None], acc * acc, 0.0), 0)
        tl.store(squares_out + tile * BM + tl.arange(0, BM), total)
    else:
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=live[:, None])
