"""One token through a packed matrix (`engine.quantize`): what `gemv` is for whole weights.

A packed row is read so quickly that the work on the input would take longest: a program computes several rows, so that
the norm and the widening of its input serve them all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import release, wait
from engine.kernels.unfold import factor_of, offset_of, part_of
from engine.quantize import Packed


@triton.jit
def words_of(words, row, step, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """[rows, BLOCK, 4, 8] words of some rows' lines from step · BLOCK on: a thread's load is the last dimension."""
    line = step * BLOCK + tl.arange(0, BLOCK)
    j = tl.arange(0, 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
    at = (row[:, None] * LINES + line[None, :])[:, :, None, None] * 32 + j[None, None, :, :]
    return tl.load(words + at, mask=(line < LINES)[None, :, None, None], other=0, eviction_policy="evict_first")


@triton.jit
def groups_of(groups, row, step, HALF: tl.constexpr, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """[rows, BLOCK, 4] factors and middles of the same lines' parts 0 and 1 (HALF 0) or 2 and 3, for each thread."""
    line = step * BLOCK + tl.arange(0, BLOCK)
    at = ((row[:, None] * LINES + line[None, :]) * 2 + HALF)[:, :, None] + tl.arange(0, 4)[None, None, :] * 0
    return tl.load(groups + at, mask=(line < LINES)[None, :, None], other=0, eviction_policy="evict_first")


@triton.jit
def narrow_gemv_kernel(
    x, gain, words, scales, groups, out, n_rows, eps,
    K: tl.constexpr, LINES: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    NORM: tl.constexpr, SILU: tl.constexpr, RESIDUAL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = 16 // BITS
    WIDE: tl.constexpr = 2 * ROWS if SILU else ROWS
    STEPS: tl.constexpr = (LINES + BLOCK - 1) // BLOCK
    r = tl.arange(0, WIDE)
    place = tl.program_id(0) * ROWS + r % ROWS
    row = (tl.minimum(place, n_rows - 1) + r // ROWS * n_rows).to(tl.int64)  # for the gate: its rows, then the up rows
    j = tl.arange(0, 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
    # Up to three blocks are asked for before the input exists: all of the rows, with the usual block sizes.
    w0 = words_of(words, row, 0, LINES, BLOCK)
    if STEPS > 1:
        w1 = words_of(words, row, 1, LINES, BLOCK)
    if STEPS > 2:
        w2 = words_of(words, row, 2, LINES, BLOCK)
    if BITS == 4:
        first = groups_of(groups, row, 0, 0, LINES, BLOCK)
        second = groups_of(groups, row, 0, 1, LINES, BLOCK)
    scale = tl.load(scales + row)
    wait(PDL)
    release(PDL)
    if RESIDUAL:
        before = tl.load(out + place, mask=place < n_rows, other=0.0).to(tl.float32)
    acc = tl.zeros([WIDE, BLOCK, 4], tl.float32)
    squares = tl.zeros([BLOCK, 4], tl.float32)
    for step in tl.static_range(STEPS):
        if step == 0:
            w = w0
        elif step == 1:
            w = w1
        elif step == 2:
            w = w2
        else:
            w = words_of(words, row, step, LINES, BLOCK)
        if BITS == 4 and step > 0:
            first = groups_of(groups, row, step, 0, LINES, BLOCK)
            second = groups_of(groups, row, step, 1, LINES, BLOCK)
        line = step * BLOCK + tl.arange(0, BLOCK)
        for part in tl.static_range(PARTS):
            at = (line * PARTS + part)[:, None, None] * 32 + j[None, :, :]
            value = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
            if NORM:
                squares += tl.sum(value * value, 2)
                value = value * tl.load(gain + at, mask=at < K, other=0.0).to(tl.float32)
            product = tl.sum(part_of(w, part, BITS) * value[None, :, :, :], 3)
            if BITS == 4:
                pair = first if part < 2 else second
                product = product * factor_of(pair, part) + tl.sum(value, 2)[None, :, :] * offset_of(pair, part)
            acc += product
    total = tl.sum(tl.sum(acc, 2), 1) * scale
    if NORM:
        total = total * tl.rsqrt(tl.sum(tl.sum(squares, 1), 0) / K + eps)
    if SILU:
        half = tl.arange(0, 2)[:, None]
        both = tl.reshape(total, [2, ROWS])
        gate = tl.sum(tl.where(half == 0, both, 0.0), 0)
        total = gate / (1.0 + tl.exp(-gate)) * tl.sum(tl.where(half == 1, both, 0.0), 0)
        place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if RESIDUAL:
        total += before
    tl.store(out + place, total.to(out.dtype.element_ty), mask=place < n_rows)


def narrow_gemv(
    x: torch.Tensor,
    weight: Packed,
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
    narrow_gemv_kernel[(triton.cdiv(n, rows),)](
        x, gain if gain is not None else x, weight.words, weight.scales, weight.groups, out, n, eps,
        K=k, LINES=lines, BITS=weight.bits, ROWS=rows, BLOCK=min(block, triton.next_power_of_2(lines)),
        NORM=gain is not None, SILU=silu, RESIDUAL=residual, PDL=pdl, num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
