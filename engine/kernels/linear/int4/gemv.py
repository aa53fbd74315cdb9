"""GEMV with 4-bit weights: what `gemv` is for others.

The tensor cores do it, as they need fewer instructions a weight than fused multiply-adds: a code becomes an operand in
less than one. They multiply 16 rows of weights by 8 columns of the input. There is one token, so each column is a group
of weights: column n of step k's operand is the input where k is in group n, and 0 elsewhere. So the sums of 8 groups
arrive side by side, in float32, and are scaled once for 256 weights of a row.
"""

# A kernel has no starred expressions, and its tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.activation import gate_product
from engine.kernels.linear.int4.codes import as_operands, group_terms, unpack
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.model.int4_weight import Int4Weight


@triton.jit
def load_tile(words, groups, first, last, step, TILES: tl.constexpr, WARPS: tl.constexpr, FORMAT: tl.constexpr):
    """What each warp reads of rows `first` … + 15, none after `last`: column tile step · WARPS + warp, 0 past TILES.

    (words of the tile's halves: int16 [2, WARPS, 8, 32]; pairs of groups of rows 0 … 7, 8 … 15: int32 [WARPS · 8, 4],
    and pairs of their offsets).
    """
    PLANES: tl.constexpr = 2 if FORMAT == 2 else 1
    # Loads are of two dimensions, so that Triton can only give a warp 8 rows, and four threads a row.
    at = tl.arange(0, WARPS * 16)[:, None]
    row = tl.minimum(first + at // (WARPS * 8) * 8 + at % 8, last)
    tile = step * WARPS + at // 8 % WARPS
    at = words + ((row // 8).to(tl.int64) * TILES + tile) * 512 + row % 8 * 32 + tl.arange(0, 32)[None, :]
    half = tl.arange(0, WARPS * 8)[:, None]
    half_tile = step * WARPS + half // 8
    upper = tl.minimum(first + half % 8, last)
    lower = tl.minimum(first + 8 + half % 8, last)
    pair = groups + tl.arange(0, 4)[None, :]
    a = pair + ((upper // 8).to(tl.int64) * TILES + half_tile) * (32 * PLANES) + upper % 8 * 4
    b = pair + ((lower // 8).to(tl.int64) * TILES + half_tile) * (32 * PLANES) + lower % 8 * 4
    live = tile < TILES
    half_live = half_tile < TILES
    if TILES % WARPS == 0:
        w0 = tl.load(at, eviction_policy="evict_first")
        w1 = tl.load(at + 256, eviction_policy="evict_first")
        pairs_a = tl.load(a, eviction_policy="evict_first")
        pairs_b = tl.load(b, eviction_policy="evict_first")
    else:
        w0 = tl.load(at, mask=live, other=0, eviction_policy="evict_first")
        w1 = tl.load(at + 256, mask=live, other=0, eviction_policy="evict_first")
        pairs_a = tl.load(a, mask=half_live, other=0, eviction_policy="evict_first")
        pairs_b = tl.load(b, mask=half_live, other=0, eviction_policy="evict_first")
    offsets_a = pairs_a
    offsets_b = pairs_b
    if FORMAT == 2:
        offsets_a = tl.load(a + 32, mask=half_live, other=0, eviction_policy="evict_first")
        offsets_b = tl.load(b + 32, mask=half_live, other=0, eviction_policy="evict_first")
    w0 = w0.reshape(2, WARPS, 8, 32)
    w1 = w1.reshape(2, WARPS, 8, 32)
    return w0, w1, pairs_a, pairs_b, offsets_a, offsets_b


@triton.jit
def _by_row_and_group(low_a, high_a, low_b, high_b):
    """Four [W · 8, 4]: even and odd groups of rows 0 … 7, and of rows 8 … 15 -> [W, 16, 8]."""
    WARPS: tl.constexpr = low_a.shape[0] // 8
    joined = tl.join(tl.join(low_a, high_a), tl.join(low_b, high_b)).reshape(WARPS, 8, 4, 2, 2)
    return tl.permute(joined, (0, 4, 1, 2, 3)).reshape(WARPS, 16, 8)


_MASK: tl.constexpr = tl.constexpr("and.b32 $0, $1, $2;")


@triton.jit
def _operand(element):
    """[pair, WARPS, group, thread, column of pair] -> [WARPS, 32, 8]: columns by groups."""
    return tl.permute(element, (1, 0, 3, 4, 2)).reshape(element.shape[1], 32, 8)


@triton.jit
def _only(element, group, GROUP: tl.constexpr, ASM: tl.constexpr):
    """`_operand` with 0 in all groups but GROUP."""
    if ASM and element.dtype != tl.float32:
        mask = tl.where(group == GROUP, -1, 0).to(tl.int16).broadcast_to(element.shape)
        if element.dtype == tl.bfloat16:
            masked = tl.inline_asm_elementwise(_MASK, "=r,r,r", [element, mask], tl.bfloat16, True, 2)
        else:
            masked = tl.inline_asm_elementwise(_MASK, "=r,r,r", [element, mask], tl.float16, True, 2)
    else:
        masked = tl.where(group == GROUP, element, tl.zeros([1, 1, 1, 1, 1], element.dtype))
    return _operand(masked)


@triton.jit
def _dot_half(acc, words, x, FIRST: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr):
    """acc [WARPS, 16, 8] plus the products of one half's groups FIRST … FIRST + 3 with x."""
    group = tl.arange(0, 8)[None, None, :, None, None]
    p0, p1, p2, p3 = unpack(words, x.dtype, ASM)
    acc = tl.dot(as_operands(p0), _only(x, group, FIRST, ASM), acc, input_precision=PRECISION)
    acc = tl.dot(as_operands(p1), _only(x, group, FIRST + 1, ASM), acc, input_precision=PRECISION)
    acc = tl.dot(as_operands(p2), _only(x, group, FIRST + 2, ASM), acc, input_precision=PRECISION)
    return tl.dot(as_operands(p3), _only(x, group, FIRST + 3, ASM), acc, input_precision=PRECISION)


@triton.jit
def tile_product(tile, x, sums, FORMAT: tl.constexpr, WARPS: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr):
    """float32 [WARPS, 16, 8]: products of each warp's 16 rows and 8 groups, from `load_tile`.

    x [4, WARPS, 8, 4, 2]: the input, see `_operand`. sums float32 [WARPS, 16, 8]: the sum over each group, in all rows.
    """
    w0, w1, pairs_a, pairs_b, offsets_a, offsets_b = tile
    acc = tl.zeros([WARPS, 16, 8], tl.float32)
    acc = _dot_half(acc, w0, x, 0, ASM, PRECISION)
    acc = _dot_half(acc, w1, x, 4, ASM, PRECISION)
    low_scale_a, low_term_a = group_terms(pairs_a, offsets_a, 0, FORMAT, x.dtype)
    high_scale_a, high_term_a = group_terms(pairs_a, offsets_a, 1, FORMAT, x.dtype)
    low_scale_b, low_term_b = group_terms(pairs_b, offsets_b, 0, FORMAT, x.dtype)
    high_scale_b, high_term_b = group_terms(pairs_b, offsets_b, 1, FORMAT, x.dtype)
    scale = _by_row_and_group(low_scale_a, high_scale_a, low_scale_b, high_scale_b)
    term = _by_row_and_group(low_term_a, high_term_a, low_term_b, high_term_b)
    return acc * scale + sums * term


@triton.jit
def int4_gemv_kernel(
    x, gain, words, scales, groups, out, n_rows, eps,
    K: tl.constexpr, TILES: tl.constexpr, FORMAT: tl.constexpr, WARPS: tl.constexpr, HEIGHT: tl.constexpr,
    AHEAD: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, GELU: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """HEIGHT · 16 rows of the result per program; the warps share each row's TILES tiles of 256 columns.

    x, gain [K]; words, scales and groups as in `Int4Weight`; out [n_rows]. With GATED the up rows follow the n_rows
    gate rows. NORM: RMSNorm of x; RESIDUAL: out += …. AHEAD: steps whose weights are loaded ahead.
    """
    STEPS: tl.constexpr = (TILES + WARPS - 1) // WARPS
    WIDE: tl.constexpr = 2 * HEIGHT if GATED else HEIGHT  # with the gate: its rows, then their up rows
    EARLY: tl.constexpr = AHEAD if AHEAD < STEPS else STEPS
    first_row = tl.program_id(0) * (HEIGHT * 16)
    # The weights of the first steps are loaded before the input exists.
    tiles = ()
    for step in tl.static_range(EARLY):
        for i in tl.static_range(WIDE):
            begin = first_row + i % HEIGHT * 16 + i // HEIGHT * n_rows
            end = n_rows - 1 + i // HEIGHT * n_rows
            tiles = tiles + (load_tile(words, groups, begin, end, step, TILES, WARPS, FORMAT),)
    flat_row = tl.arange(0, 16)
    row_scales = ()
    for i in tl.static_range(WIDE):
        row = tl.minimum(first_row + i % HEIGHT * 16 + flat_row, n_rows - 1) + i // HEIGHT * n_rows
        row_scales = row_scales + (tl.load(scales + row),)
    grid_wait(PDL)
    launch_dependents(PDL)
    residual = ()
    for i in tl.static_range(HEIGHT if RESIDUAL else 0):
        row = first_row + i * 16 + flat_row
        residual = residual + (tl.load(out + row, mask=row < n_rows, other=0.0).to(tl.float32),)
    totals = ()
    for _ in tl.static_range(WIDE):
        totals = totals + (tl.zeros([WARPS, 16, 8], tl.float32),)
    # Of the input, too, each thread loads what its part of the operand is: [pair, warp, group, thread, column of pair].
    at = tl.arange(0, WARPS * 128)[:, None]
    in_group = at // (WARPS * 32) * 8 + at % 4 * 2 + tl.arange(0, 2)[None, :]
    column = at // 32 % WARPS * 256 + at // 4 % 8 * 32 + in_group
    squares = tl.zeros([WARPS * 128, 2], tl.float32)
    ones = tl.full([WARPS, 16, 32], 1.0, x.dtype.element_ty)
    for step in tl.static_range(STEPS):
        later = ()
        for i in tl.static_range(WIDE):
            if step + EARLY < STEPS:
                begin = first_row + i % HEIGHT * 16 + i // HEIGHT * n_rows
                end = n_rows - 1 + i // HEIGHT * n_rows
                later = later + (load_tile(words, groups, begin, end, step + EARLY, TILES, WARPS, FORMAT),)
        at = column + step * (WARPS * 256)
        element = tl.load(x + at) if K % (WARPS * 256) == 0 else tl.load(x + at, mask=at < K, other=0.0)
        if NORM:
            wide = element.to(tl.float32)
            squares += wide * wide
            g = tl.load(gain + at) if K % (WARPS * 256) == 0 else tl.load(gain + at, mask=at < K, other=0.0)
            element = (wide * g.to(tl.float32)).to(element.dtype)
        element = element.reshape(4, WARPS, 8, 4, 2)
        sums = tl.dot(ones, _operand(element), input_precision=PRECISION)
        new = ()
        for i in tl.static_range(WIDE):
            new = new + (totals[i] + tile_product(tiles[i], element, sums, FORMAT, WARPS, ASM, PRECISION),)
        totals = new
        tiles = tiles[WIDE:] + later
    norm = 1.0
    if NORM:
        norm = tl.rsqrt(tl.sum(squares.reshape(WARPS * 256), 0) / K + eps)
    for i in tl.static_range(HEIGHT):
        row = first_row + i * 16 + flat_row
        total = tl.sum(tl.sum(totals[i], 2), 0) * row_scales[i] * norm
        if GATED:
            up = tl.sum(tl.sum(totals[HEIGHT + i], 2), 0) * row_scales[HEIGHT + i] * norm
            total = gate_product(total, up, GELU)
        if RESIDUAL:
            total += residual[i]
        tl.store(out + row, total.to(out.dtype.element_ty), mask=row < n_rows)


def int4_gemv(
    x: torch.Tensor,
    weight: Int4Weight,
    out: torch.Tensor,
    *,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    gelu: bool = False,
    residual: bool = False,
    pdl: bool = False,
    height: int = 1,
    warps: int = 4,
    ahead: int = 4,
) -> None:
    """out [1, N] = norm(x [1, K]) · weightᵀ, with `gemv`'s norm, gate and residual.

    A program takes `height` · 16 rows of the result (with `gated` as many gate and up rows). Its `warps` share a row's
    columns, and load the weights of `ahead` steps of 256 columns before they are needed.
    """
    rows, k = weight.shape
    n = rows // 2 if gated else rows
    int4_gemv_kernel[(triton.cdiv(n, height * 16),)](
        x, gain if gain is not None else x, weight.words, weight.scales, weight.groups, out, n, eps,
        K=k, TILES=weight.words.shape[1], FORMAT=weight.format, WARPS=warps, HEIGHT=height, AHEAD=ahead,
        NORM=gain is not None, GATED=gated, RESIDUAL=residual, GELU=gelu, PDL=pdl, ASM=x.is_cuda,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
