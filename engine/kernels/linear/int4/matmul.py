"""GEMM with 4-bit weights: for 2 to 128 tokens what `matmul` is for others, and for prompts without norm or gate.

The weights' rows are the M side of each tl.dot. They are dequantized in registers (`operand.py`), on their way from
the pipeline to the tensor cores. A step takes 128 or 256 columns.

Buffers of up to 128 tokens hold at least BM tokens; those past the live ones may hold anything.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.linear.int4.operand import dequantize_half, load_pairs, load_words, operand_rows, two_pairs
from engine.kernels.linear.matmul import GATED, PLAIN, GemmConfig, PartialSquares, Scratch, inverse_rms
from engine.kernels.linear.register_operands import waited_for
from engine.kernels.linear.tile_ending import store_tile, sum_splits
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.model.int4_weight import Int4Weight

ADD = 3  # an ending: out += product


@triton.jit
def int4_matmul_kernel(
    x, words, scales, groups, out, partial_sums, counters, squares_in, n_squares_in, gain, scaled, squares_out, N,
    n_tokens, eps,
    K: tl.constexpr, TILES: tl.constexpr, FORMAT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    HALVES: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr,
    SQUARE_PARTS: tl.constexpr, PROMPT: tl.constexpr, GELU: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One split of K, one tile of BM tokens and one of BN weight rows per program. Pointers: see `int4_matmul`.

    HALVES: 128 columns of a step; KIND: PLAIN, GATED, RESIDUAL or ADD; PROMPT: there are n_tokens tokens, not BM, and
    no split, gate or norm; the rest as in `matmul_kernel`.
    """
    split = tl.program_id(0) % SPLIT
    tile = tl.program_id(1)
    rows = tile * BN + tl.arange(0, BN)
    tokens = tl.program_id(0) // SPLIT * BM + tl.arange(0, BM)
    live = rows < N
    STEPS: tl.constexpr = (K + 128 * HALVES - 1) // (128 * HALVES)
    per: tl.constexpr = (STEPS + SPLIT - 1) // SPLIT
    PLANES: tl.constexpr = 2 if FORMAT == 2 else 1
    WARPS: tl.constexpr = BN // 16
    w = tl.minimum(operand_rows(tile * BN, WARPS), N - 1)
    k = tl.arange(0, 128)
    x_rows = tl.where(tokens < n_tokens, tokens, 0) if PROMPT else tokens
    x_rows = x_rows[None, :].to(tl.int64) * K
    grid_wait(PDL)
    launch_dependents(PDL)
    at = tokens[None, :].to(tl.int64) * N + rows[:, None]
    ok = live[:, None] & (tokens < n_tokens)[None, :] if PROMPT else live[:, None]
    # What the ending needs is loaded now, so that the wait overlaps with the product.
    inv_rms = inverse_rms(squares_in, n_squares_in, K, eps, BM, SQUARE_PARTS)[None, :] if NORM else 1.0
    residual = 0.0
    if KIND >= 2:
        residual = tl.load(out + at, mask=ok, other=0.0).to(tl.float32)
    g = 0.0
    if KIND == 2:
        g = tl.load(gain + rows, mask=live, other=0.0).to(tl.float32)
    acc = tl.zeros([BN, BM], tl.float32)
    acc_up = tl.zeros([BN, BM], tl.float32)
    for step in tl.range(0, tl.minimum(STEPS - split * per, per), num_stages=STAGES):
        at_step = split * per + step
        tile_number = at_step * HALVES // 2
        first_half = at_step % 2 if HALVES == 1 else 0
        pairs = load_pairs(groups, w, tile_number, first_half * 2, 0, 2 * HALVES, TILES, PLANES)
        offsets = pairs
        if FORMAT == 2:
            offsets = load_pairs(groups, w, tile_number, first_half * 2, 1, 2 * HALVES, TILES, PLANES)
        if KIND == 1:
            up_pairs = load_pairs(groups, w + N, tile_number, first_half * 2, 0, 2 * HALVES, TILES, PLANES)
            up_offsets = up_pairs
            if FORMAT == 2:
                up_offsets = load_pairs(groups, w + N, tile_number, first_half * 2, 1, 2 * HALVES, TILES, PLANES)
        for half in tl.static_range(HALVES):
            column = (at_step * HALVES + half) * 128 + k
            if K % (128 * HALVES) == 0:
                xt = tl.load(x + column[:, None] + x_rows)
            else:
                xt = tl.load(x + column[:, None] + x_rows, mask=(column < K)[:, None], other=0.0)
            word = load_words(words, w, tile_number, first_half + half, TILES)
            a, b = two_pairs(pairs, half, WARPS)
            offset_a, offset_b = two_pairs(offsets, half, WARPS)
            wt = dequantize_half(word, a, b, offset_a, offset_b, xt.dtype, FORMAT, WARPS, ASM)
            acc = waited_for(tl.dot(wt, xt, acc, input_precision=PRECISION))
            if KIND == 1:
                word = load_words(words, w + N, tile_number, first_half + half, TILES)
                a, b = two_pairs(up_pairs, half, WARPS)
                offset_a, offset_b = two_pairs(up_offsets, half, WARPS)
                ut = dequantize_half(word, a, b, offset_a, offset_b, xt.dtype, FORMAT, WARPS, ASM)
                acc_up = waited_for(tl.dot(ut, xt, acc_up, input_precision=PRECISION))
    last = True
    if SPLIT > 1:
        last, acc, acc_up = sum_splits(acc, acc_up, partial_sums, counters, tile, split, SPLIT, KIND == 1)
    if PROMPT:
        acc = acc * tl.load(scales + rows, mask=live, other=0.0)[:, None]
        if KIND == 3:
            acc += residual
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=ok)
    elif last:
        store_tile(
            acc, acc_up, scales, inv_rms, residual, g, out, scaled, squares_out, at, rows, live, tile, N,
            KIND, NORM, True, GELU,
        )  # fmt: skip


def int4_matmul(
    x: torch.Tensor,
    weight: Int4Weight,
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
    tokens: int | None = None,
) -> int:
    """out [bm, N] = x [bm, K] · weightᵀ, with the endings, arguments and result of `matmul`; `config.bk` is 128 or 256.

    With `tokens`: x [tokens, K] and out [tokens, N] of any number of tokens, `bm` a program; PLAIN or ADD, unsplit.
    """
    rows, k = weight.shape
    n = rows // 2 if kind == GATED else rows
    tiles = -(-n // config.bn)
    blocks = 1 if tokens is None else -(-tokens // bm)
    int4_matmul_kernel[(config.split * blocks, tiles)](
        x, weight.words, weight.scales, weight.groups, out, scratch.partial_sums, scratch.counters,
        norm.sums if norm is not None else scratch.partial_sums, norm.num_parts if norm is not None else 0,
        gain if gain is not None else x, scaled if scaled is not None else out,
        squares_out if squares_out is not None else scratch.partial_sums, n, bm if tokens is None else tokens, eps,
        K=k, TILES=weight.words.shape[1], FORMAT=weight.format, BM=bm, BN=config.bn, HALVES=config.bk // 128,
        SPLIT=config.split, STAGES=config.stages, KIND=kind, NORM=norm is not None,
        SQUARE_PARTS=triton.next_power_of_2(max(1, norm.num_parts)) if norm is not None else 1,
        PROMPT=tokens is not None, GELU=gelu, PDL=pdl, ASM=x.is_cuda,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
    return tiles
