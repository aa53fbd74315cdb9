"""Dequantizes a whole matrix of 4-bit weights, for cuBLAS: with many tokens arithmetic is the bottleneck."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.linear.int4.operand import dequantize_half, load_pairs, load_words, operand_rows, two_pairs
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.model.int4_weight import Int4Weight


@triton.jit
def int4_dequantize_kernel(
    words, scales, groups, out, n_rows,
    K: tl.constexpr, TILES: tl.constexpr, FORMAT: tl.constexpr, WARPS: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """WARPS · 16 rows and 256 columns per program: words, scales and groups as in `Int4Weight` -> out [n_rows, K]."""
    PLANES: tl.constexpr = 2 if FORMAT == 2 else 1
    row = tl.minimum(operand_rows(tl.program_id(0) * (WARPS * 16), WARPS), n_rows - 1)
    tile = tl.program_id(1)
    pairs = load_pairs(groups, row, tile, 0, 0, 4, TILES, PLANES)
    offsets = load_pairs(groups, row, tile, 0, 1, 4, TILES, PLANES) if FORMAT == 2 else pairs
    rows = tl.program_id(0) * (WARPS * 16) + tl.arange(0, WARPS * 16)
    scale = tl.load(scales + rows, mask=rows < n_rows, other=0.0)[:, None]
    # The GEMM before may still be reading `out`.
    grid_wait(PDL)
    launch_dependents(PDL)
    for half in tl.static_range(2):
        a, b = two_pairs(pairs, half, WARPS)
        offset_a, offset_b = two_pairs(offsets, half, WARPS)
        word = load_words(words, row, tile, half, TILES)
        value = dequantize_half(word, a, b, offset_a, offset_b, out.dtype.element_ty, FORMAT, WARPS, ASM)
        column = tile * 256 + half * 128 + tl.arange(0, 128)[None, :]
        to = out + rows[:, None].to(tl.int64) * K + column
        tl.store(to, (value * scale).to(out.dtype.element_ty), mask=(rows < n_rows)[:, None] & (column < K))


def int4_dequantize(weight: Int4Weight, out: torch.Tensor, *, pdl: bool = False, warps: int = 4) -> None:
    """out [N, K] = the matrix that `weight` represents, in out's dtype."""
    n, k = out.shape
    tiles = weight.words.shape[1]
    int4_dequantize_kernel[(triton.cdiv(n, warps * 16), tiles)](
        weight.words, weight.scales, weight.groups, out, n, K=k, TILES=tiles, FORMAT=weight.format, WARPS=warps,
        PDL=pdl, ASM=out.is_cuda, num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
