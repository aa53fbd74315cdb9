"""One token through a packed matrix (`engine.model.quantization`): what `gemv` is for whole weights.

A packed row is read so quickly that the work on the input would take longest: a program computes several rows, so that
the norm and the widening of its input serve them all.
"""

# A kernel knows no starred expression, and its tuples grow.
# ruff: noqa: RUF005, SIM108
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.dequantize import group_offset, group_scale, unpack_part
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.model.quantization import QuantizedWeight


@triton.jit
def words_of(words, row, step, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """[BLOCK · 4, 8] words of a row's lines from step · BLOCK on: the second dimension is what one thread loads."""
    at = step * (BLOCK * 32) + tl.arange(0, BLOCK * 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
    return tl.load(words + row * (LINES * 32) + at, mask=at < LINES * 32, other=0, eviction_policy="evict_first")


@triton.jit
def groups_of(groups, row, step, HALF: tl.constexpr, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """[BLOCK · 4] factors and middles of the same lines' parts 0 and 1 (HALF 0) or 2 and 3, for each thread."""
    line = step * BLOCK + tl.arange(0, BLOCK * 4) // 4
    at = groups + (row * LINES + line) * 2 + HALF
    return tl.load(at, mask=line < LINES, other=0, eviction_policy="evict_first")


@triton.jit
def part_sum(weight, value, value_sum, first, second, PART: tl.constexpr, BITS: tl.constexpr):
    """Each thread's share of a row's product with one part of the input."""
    product = tl.sum(unpack_part(weight, PART, BITS) * value, 1)
    if BITS == 4:
        pair = first if PART < 2 else second
        product = product * group_scale(pair, PART) + value_sum * group_offset(pair, PART)
    return product


@triton.jit
def quantized_gemv_kernel(
    x, gain, words, scales, groups, out, n_rows, eps,
    K: tl.constexpr, LINES: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    NORM: tl.constexpr, SILU: tl.constexpr, RESIDUAL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rows are tuples of one tensor each, so that a thread holds the same columns of all of them."""
    PARTS: tl.constexpr = 16 // BITS
    WIDE: tl.constexpr = 2 * ROWS if SILU else ROWS  # for the gate: its rows, then their up rows
    STEPS: tl.constexpr = (LINES + BLOCK - 1) // BLOCK
    place = tl.program_id(0) * ROWS
    rows = ()
    ahead = ()
    pairs = ()
    sums = ()
    factors = ()
    # Up to three blocks of a row are asked for before the input exists: all of it, with the usual block sizes.
    for r in tl.static_range(WIDE):
        row = (tl.minimum(place + r % ROWS, n_rows - 1) + r // ROWS * n_rows).to(tl.int64)
        rows = rows + (row,)
        sums = sums + (tl.zeros([BLOCK * 4], tl.float32),)
        factors = factors + (tl.load(scales + row),)
        for step in tl.static_range(3 if STEPS > 3 else STEPS):
            ahead = ahead + (words_of(words, row, step, LINES, BLOCK),)
        if BITS == 4:
            pairs = pairs + (groups_of(groups, row, 0, 0, LINES, BLOCK), groups_of(groups, row, 0, 1, LINES, BLOCK))
    grid_wait(PDL)
    launch_dependents(PDL)
    before = ()
    for r in tl.static_range(ROWS if RESIDUAL else 0):
        before = before + (tl.load(out + place + r, mask=place + r < n_rows, other=0.0).to(tl.float32),)
    AHEAD: tl.constexpr = 3 if STEPS > 3 else STEPS
    squares = tl.zeros([BLOCK * 4], tl.float32)
    for step in tl.static_range(STEPS):
        w = ()
        pair = ()
        for r in tl.static_range(WIDE):
            if step < AHEAD:
                w = w + (ahead[r * AHEAD + step],)
            else:
                w = w + (words_of(words, rows[r], step, LINES, BLOCK),)
            if BITS == 8:
                pair = pair + (place, place)  # nothing
            elif step == 0:
                pair = pair + (pairs[2 * r], pairs[2 * r + 1])
            else:
                first = groups_of(groups, rows[r], step, 0, LINES, BLOCK)
                pair = pair + (first, groups_of(groups, rows[r], step, 1, LINES, BLOCK))
        word = step * (BLOCK * 32) + tl.arange(0, BLOCK * 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
        for part in tl.static_range(PARTS):
            at = word // 32 * (32 * PARTS) + part * 32 + word % 32
            value = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
            if NORM:
                squares += tl.sum(value * value, 1)
                value = value * tl.load(gain + at, mask=at < K, other=0.0).to(tl.float32)
            value_sum = tl.sum(value, 1)
            fresh = ()
            for r in tl.static_range(WIDE):
                share = part_sum(w[r], value, value_sum, pair[2 * r], pair[2 * r + 1], part, BITS)
                fresh = fresh + (sums[r] + share,)
            sums = fresh
    norm = tl.rsqrt(tl.sum(squares, 0) / K + eps) if NORM else 1.0
    for r in tl.static_range(ROWS):
        total = tl.sum(sums[r], 0) * factors[r] * norm
        if SILU:
            up = tl.sum(sums[ROWS + r], 0) * factors[ROWS + r] * norm
            total = total / (1.0 + tl.exp(-total)) * up
        if RESIDUAL:
            total += before[r]
        tl.store(out + place + r, total.to(out.dtype.element_ty), mask=place + r < n_rows)


def quantized_gemv(
    x: torch.Tensor,
    weight: QuantizedWeight,
    out: torch.Tensor,
    *,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
    silu: bool = False,
    residual: bool = False,
    pdl: bool = False,
    rows: int = 4,
    block: int = 32,
    warps: int = 4,
) -> None:
    """out[1, N] = weight · norm(x[1, K]), endings as `gemv`'s; a program takes `rows` of the result (for the gate: as
    many gate and up rows) and `block` lines at a time."""
    rows_in, k = weight.shape
    n, lines = rows_in // 2 if silu else rows_in, weight.words.shape[1] // 32
    quantized_gemv_kernel[(triton.cdiv(n, rows),)](
        x, gain if gain is not None else x, weight.words, weight.scales, weight.groups, out, n, eps,
        K=k, LINES=lines, BITS=weight.bits, ROWS=rows, BLOCK=min(block, triton.next_power_of_2(lines)),
        NORM=gain is not None, SILU=silu, RESIDUAL=residual, PDL=pdl, num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
