"""GEMM for a few tokens (2 to 128) with weights of 8 bits: what `matmul` is for others.

A tile of packed words is read once, in the layout in which the tensor cores want a matrix of 16 bits, and unpacked in
registers into two of them, its low and its high bytes; each is multiplied by the tokens' columns that belong to it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.eight_bits import unpack_bytes
from engine.kernels.linear.matmul import GATED, PLAIN, GemmConfig, PartialSquares, Scratch, inverse_rms
from engine.kernels.linear.tile_ending import store_tile, sum_splits
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def load_tokens(x, word, part, tokens, K: tl.constexpr, MASKED: tl.constexpr):
    """[BK, BM]: the tokens' columns of part `part` of the words numbered `word` [BK] of a row."""
    k = word // 32 * 64 + part * 32 + word % 32
    if MASKED:
        return tl.load(x + k[:, None] + tokens[None, :] * K, mask=(k < K)[:, None], other=0.0)
    return tl.load(x + k[:, None] + tokens[None, :] * K)


@triton.jit
def eight_bit_dot(
    acc, acc_up, x, w, up, tokens, word,
    WORDS: tl.constexpr, K: tl.constexpr, FP8: tl.constexpr, GATE: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(acc, acc_up) float32 [BN, BM] plus the product of the words numbered `word` [BK] of some rows, and of up rows.

    x [tokens, K]; w and, with GATE, up: pointers to the packed rows, int16 [BN], each of WORDS words; tokens [BM].
    """
    if MASKED:
        ok = (word < WORDS)[None, :]
        wt = tl.load(w[:, None] + word[None, :], mask=ok, other=0, eviction_policy="evict_first")
        if GATE:
            ut = tl.load(up[:, None] + word[None, :], mask=ok, other=0, eviction_policy="evict_first")
    else:
        wt = tl.load(w[:, None] + word[None, :], eviction_policy="evict_first")
        if GATE:
            ut = tl.load(up[:, None] + word[None, :], eviction_policy="evict_first")
    for part in tl.static_range(2):
        xt = load_tokens(x, word, part, tokens, K, MASKED)
        acc = tl.dot(unpack_bytes(wt, part, FP8, xt.dtype), xt, acc, input_precision=PRECISION)
        if GATE:
            acc_up = tl.dot(unpack_bytes(ut, part, FP8, xt.dtype), xt, acc_up, input_precision=PRECISION)
    return acc, acc_up


@triton.jit
def eight_bit_matmul_kernel(
    x, words, row_scales, out, partial_sums, counters, squares_in, n_squares_in, gain, scaled, squares_out, N, eps,
    K: tl.constexpr, LINES: tl.constexpr, FP8: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    SPLIT: tl.constexpr, STAGES: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, SQUARE_PARTS: tl.constexpr,
    GELU: tl.constexpr, PDL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One split of K and one tile of BN weight rows per program, all BM tokens. Pointers: see `eight_bit_matmul`.

    BK: words a step, each two columns; STAGES, KIND, NORM, SQUARE_PARTS, PRECISION: as in `matmul_kernel`.
    """
    split = tl.program_id(0)
    tile = tl.program_id(1)
    rows = tile * BN + tl.arange(0, BN)
    tokens = tl.arange(0, BM)
    WORDS: tl.constexpr = LINES * 32
    steps: tl.constexpr = (WORDS + BK - 1) // BK
    per: tl.constexpr = (steps + SPLIT - 1) // SPLIT
    MASKED: tl.constexpr = WORDS % BK != 0 or K % 64 != 0
    live = rows < N
    w = words + tl.where(live, rows, 0).to(tl.int64) * WORDS
    up = w + N.to(tl.int64) * WORDS
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
    for step in tl.range(0, tl.minimum(steps - split * per, per), num_stages=STAGES):
        word = (split * per + step) * BK + tl.arange(0, BK)
        acc, acc_up = eight_bit_dot(acc, acc_up, x, w, up, tokens, word, WORDS, K, FP8, KIND == 1, MASKED, PRECISION)
    last = True
    if SPLIT > 1:
        last, acc, acc_up = sum_splits(acc, acc_up, partial_sums, counters, tile, split, SPLIT, KIND == 1)
    if last:
        store_tile(
            acc, acc_up, row_scales, inv_rms, residual, g, out, scaled, squares_out, at, rows, live, tile, N,
            KIND, NORM, True, GELU,
        )  # fmt: skip


def eight_bit_matmul(
    x: torch.Tensor,
    words: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    config: GemmConfig,
    scratch: Scratch,
    *,
    fp8: bool,
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
    """out [bm, N] = x [bm, K] · weightᵀ, with the endings of `matmul`; returns the partial sums of squares written.

    words int16 [N, lines · 32] of int8 or `fp8`, or with GATED [2 · N, lines · 32]; scales float32 by row. x, out,
    norm, gain, scaled and squares_out are those of `matmul`; `config.bk` counts words.
    """
    weight_rows, k = words.shape[0], x.shape[1]
    n = weight_rows // 2 if kind == GATED else weight_rows
    tiles = -(-n // config.bn)
    eight_bit_matmul_kernel[(config.split, tiles)](
        x, words, scales, out, scratch.partial_sums, scratch.counters,
        norm.sums if norm is not None else scratch.partial_sums, norm.num_parts if norm is not None else 0,
        gain if gain is not None else x, scaled if scaled is not None else out,
        squares_out if squares_out is not None else scratch.partial_sums, n, eps,
        K=k, LINES=words.shape[1] // 32, FP8=fp8, BM=bm, BN=config.bn, BK=config.bk, SPLIT=config.split,
        STAGES=config.stages, KIND=kind, NORM=norm is not None,
        SQUARE_PARTS=triton.next_power_of_2(max(1, norm.num_parts)) if norm is not None else 1, GELU=gelu, PDL=pdl,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
    return tiles
