"""GEMM for a few tokens (2 to 128) and a weight matrix. It is memory-bound: its time is that of reading the matrix.

The weights' rows are the M side of each tl.dot, the tokens its N side. The reduction over K is split (split-K) until
all programs run at once; the last program of a tile sums the splits in fixed order, so results do not depend on
timing. The RMSNorm around a residual sum costs nothing: the GEMM that updates the residual stream `h` also stores
h · gain (`scaled`) and its tile's sums of squares, and the next GEMM multiplies its result by each token's 1 / rms.
Quantized weights have kernels of their own (`eight_bit_matmul.py`, `int4/matmul.py`).

Buffers hold at least BM tokens; those past the live ones may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from engine.kernels.linear.tile_ending import store_tile, sum_splits
from engine.kernels.pdl import grid_wait, launch_dependents

PLAIN, GATED, RESIDUAL = 0, 1, 2


@triton.jit
def inverse_rms(squares, n_parts, dim, eps, BM: tl.constexpr, PARTS: tl.constexpr):
    """1 / rms of BM tokens of width dim, from partial sums of squares float32 [n_parts, BM]; PARTS >= n_parts."""
    part = tl.arange(0, PARTS)
    token = tl.arange(0, BM)
    sums = tl.load(squares + part[:, None] * BM + token[None, :], mask=part[:, None] < n_parts, other=0.0)
    return tl.rsqrt(tl.sum(sums, 0) / dim + eps)


@triton.jit
def matmul_kernel(
    x, weight, out, partial_sums, counters, squares_in, n_squares_in, gain, scaled, squares_out, N,
    eps,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    KIND: tl.constexpr, NORM: tl.constexpr, SQUARE_PARTS: tl.constexpr, BULK: tl.constexpr,
    EARLY: tl.constexpr, GELU: tl.constexpr, PDL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One split of K and one tile of BN weight rows per program, all BM tokens. Pointers: see `matmul`.

    BK: columns a step; STAGES: pipeline depth; KIND: PLAIN, GATED or RESIDUAL; NORM: multiply by 1 / rms from
    n_squares_in <= SQUARE_PARTS partial sums; BULK: `weight` is a tensor descriptor; EARLY: load the first tile of
    weights before the input exists; PRECISION: of float32 products.
    """
    split = tl.program_id(0)
    tile = tl.program_id(1)
    rows = tile * BN + tl.arange(0, BN)
    tokens = tl.arange(0, BM)
    ks = tl.arange(0, BK)
    steps: tl.constexpr = (K + BK - 1) // BK
    per: tl.constexpr = (steps + SPLIT - 1) // SPLIT
    k0 = split * per * BK
    live = rows < N
    if not BULK:
        w = weight + tl.where(live, rows, 0).to(tl.int64) * K + k0
        up = w + N.to(tl.int64) * K
    if EARLY:  # while the kernel before still runs
        first_ok = live[:, None] & (k0 + ks < K)[None, :]
        w_first = tl.load(w[:, None] + ks[None, :], mask=first_ok, other=0.0, eviction_policy="evict_first")
        if KIND == 1:
            u_first = tl.load(up[:, None] + ks[None, :], mask=first_ok, other=0.0, eviction_policy="evict_first")
    grid_wait(PDL)
    launch_dependents(PDL)
    at = tokens[None, :].to(tl.int64) * N + rows[:, None]
    # What the ending needs is loaded now, so that the wait overlaps with the product.
    inv_rms = 1.0
    residual = 0.0
    g = 0.0
    if NORM:
        inv_rms = inverse_rms(squares_in, n_squares_in, K, eps, BM, SQUARE_PARTS)[None, :]
    if KIND == 2:
        residual = tl.load(out + at, mask=live[:, None], other=0.0)
        g = tl.load(gain + rows, mask=live, other=0.0).to(tl.float32)
    acc = tl.zeros([BN, BM], tl.float32)
    acc_up = tl.zeros([BN, BM], tl.float32)
    if EARLY:
        x_first = tl.load(x + (k0 + ks)[:, None] + tokens[None, :] * K, mask=(k0 + ks < K)[:, None], other=0.0)
        acc = tl.dot(w_first.to(x_first.dtype), x_first, acc, input_precision=PRECISION)
        if KIND == 1:
            acc_up = tl.dot(u_first.to(x_first.dtype), x_first, acc_up, input_precision=PRECISION)
    for step in tl.range(1 if EARLY else 0, per, num_stages=STAGES):
        k = step * BK + ks
        if BULK:
            wt = weight.load([tile * BN, k0 + step * BK])
            xt = tl.load(x + (k0 + k)[:, None] + tokens[None, :] * K)
            if KIND == 1:
                ut = weight.load([N + tile * BN, k0 + step * BK])
        elif K % (BK * SPLIT) == 0:
            wt = tl.load(w[:, None] + k[None, :], eviction_policy="evict_first")
            xt = tl.load(x + (k0 + k)[:, None] + tokens[None, :] * K)
            if KIND == 1:
                ut = tl.load(up[:, None] + k[None, :], eviction_policy="evict_first")
        else:
            ok = k0 + k < K
            wt = tl.load(w[:, None] + k[None, :], mask=ok[None, :], other=0.0, eviction_policy="evict_first")
            xt = tl.load(x + (k0 + k)[:, None] + tokens[None, :] * K, mask=ok[:, None], other=0.0)
            if KIND == 1:
                ut = tl.load(up[:, None] + k[None, :], mask=ok[None, :], other=0.0, eviction_policy="evict_first")
        acc = tl.dot(wt.to(xt.dtype), xt, acc, input_precision=PRECISION)
        if KIND == 1:
            acc_up = tl.dot(ut.to(xt.dtype), xt, acc_up, input_precision=PRECISION)
    last = True
    if SPLIT > 1:
        last, acc, acc_up = sum_splits(acc, acc_up, partial_sums, counters, tile, split, SPLIT, KIND == 1)
    if last:
        store_tile(
            acc, acc_up, x, inv_rms, residual, g, out, scaled, squares_out, at, rows, live, tile, N,
            KIND, NORM, False, GELU,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class GemmConfig:
    """How a GEMM is tiled: `bn` weight rows and `bk` columns (of 8-bit weights: words) a tile, `split` splits of K.

    `stages` is the pipeline's depth and `warps` Triton's. `bulk`: bulk tensor copies (Hopper's TMA) load the weights,
    and in prompts with 8-bit weights the tokens too. The engine sets it for those alone; sweeps try it for others.
    `early`: the first tile of weights is loaded before the input exists (not of quantized weights).
    """

    bn: int
    bk: int
    split: int
    stages: int
    warps: int
    bulk: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Scratch:
    """Memory for split-K: float32 partial sums, and an int32 counter for each tile, zero before and after a GEMM."""

    partial_sums: torch.Tensor
    counters: torch.Tensor

    @staticmethod
    def allocate(device: torch.device, floats: int = 1 << 23, tiles: int = 1 << 14) -> Scratch:
        """Scratch for GEMMs of up to `floats` partial sums and `tiles` tiles."""
        return Scratch(
            torch.empty(floats, dtype=torch.float32, device=device),
            torch.zeros(tiles, dtype=torch.int32, device=device),
        )


@dataclass(frozen=True, slots=True)
class PartialSquares:
    """Partial sums of squares of the residual stream: `sums` float32 [≥ num_parts, BM], of which `num_parts` count."""

    sums: torch.Tensor
    num_parts: int


def matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    config: GemmConfig,
    scratch: Scratch,
    *,
    bm: int,
    kind: int = PLAIN,
    gelu: bool = False,
    norm: PartialSquares | None = None,
    eps: float = 0.0,
    gain: torch.Tensor | None = None,
    scaled: torch.Tensor | None = None,
    squares_out: torch.Tensor | None = None,
    pdl: bool = False,
) -> int:
    """out [bm, N] = x [bm, K] · weightᵀ; returns the number of partial sums of squares written.

    weight [N, K], or [2 · N, K] with GATED: gate rows before up rows, and out = silu(gate) · up, or with `gelu`
    gelu(gate) · up. `norm`: the result is multiplied by each token's 1 / rms, from x's partial sums of squares.
    RESIDUAL: out += …, scaled [bm, N] = out · gain [N], and squares_out float32 [tiles, bm] = out's sums of squares by
    tile. x, out and scaled are contiguous in the model's dtype (out may be float32); products accumulate in float32.
    """
    rows, k = weight.shape
    n = rows // 2 if kind == GATED else rows
    tiles = -(-n // config.bn)
    matmul_kernel[(config.split, tiles)](
        x, TensorDescriptor.from_tensor(weight, [config.bn, config.bk]) if config.bulk else weight, out,
        scratch.partial_sums, scratch.counters,
        norm.sums if norm is not None else scratch.partial_sums, norm.num_parts if norm is not None else 0,
        gain if gain is not None else x, scaled if scaled is not None else out,
        squares_out if squares_out is not None else scratch.partial_sums, n, eps,
        K=k, BM=bm, BN=config.bn, BK=config.bk, SPLIT=config.split, STAGES=config.stages, KIND=kind,
        NORM=norm is not None,
        SQUARE_PARTS=triton.next_power_of_2(max(1, norm.num_parts)) if norm is not None else 1,
        BULK=config.bulk, EARLY=config.early, GELU=gelu, PDL=pdl,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
    return tiles
