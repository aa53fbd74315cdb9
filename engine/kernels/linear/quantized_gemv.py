"""GEMV with quantized weights (`engine.model.quantized_weight`): what `gemv` is for others.

A packed row is read so quickly that preparing the input would take longest. So a program computes several rows, which
share the norm and the conversion of the input.
"""

# A kernel has no starred expressions, and its tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.activation import gate_product
from engine.kernels.linear.dequantize import group_offset, group_scale, unpack_part
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.model.quantized_weight import QuantizedWeight


@triton.jit
def load_words(words, row, step, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """int16 [BLOCK · 4, 8]: a row's words from line step · BLOCK on. A thread loads the second dimension."""
    at = step * (BLOCK * 32) + tl.arange(0, BLOCK * 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
    return tl.load(words + row * (LINES * 32) + at, mask=at < LINES * 32, other=0, eviction_policy="evict_first")


@triton.jit
def load_groups(groups, row, step, HALF: tl.constexpr, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """int32 [BLOCK · 4]: scales and zero points of the same lines' parts 0 and 1 (HALF 0) or 2 and 3, by thread."""
    line = step * BLOCK + tl.arange(0, BLOCK * 4) // 4
    at = groups + (row * LINES + line) * 2 + HALF
    return tl.load(at, mask=line < LINES, other=0, eviction_policy="evict_first")


@triton.jit
def part_sum(words, x, x_sum, first_groups, second_groups, PART: tl.constexpr, BITS: tl.constexpr):
    """float32 [BLOCK · 4]: each thread's sum of one part of a row times x [BLOCK · 4, 8], whose sums are x_sum."""
    product = tl.sum(unpack_part(words, PART, BITS) * x, 1)
    if BITS == 4:
        group = first_groups if PART < 2 else second_groups
        product = product * group_scale(group, PART) + x_sum * group_offset(group, PART)
    return product


@triton.jit
def quantized_gemv_kernel(
    x, gain, words, scales, groups, out, n_rows, eps,
    K: tl.constexpr, LINES: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, GELU: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """ROWS rows of the result per program, BLOCK of their LINES lines at a time.

    x, gain [K]; words int16 [rows, LINES · 32], scales float32 [rows], groups int32 [rows, LINES · 2]; out [n_rows].
    With GATED the up rows follow the n_rows gate rows. NORM: RMSNorm of x; RESIDUAL: out += …. The rows are tuples of
    one tensor each, not one tensor, so that a thread holds the same columns of all of them.
    """
    PARTS: tl.constexpr = 16 // BITS
    WIDE: tl.constexpr = 2 * ROWS if GATED else ROWS  # with the gate: its rows, then their up rows
    STEPS: tl.constexpr = (LINES + BLOCK - 1) // BLOCK
    first_row = tl.program_id(0) * ROWS
    rows = ()
    early = ()
    early_groups = ()
    sums = ()
    row_scales = ()
    # Up to three blocks of a row are loaded before the input exists: with the usual block sizes, the whole row.
    for r in tl.static_range(WIDE):
        row = (tl.minimum(first_row + r % ROWS, n_rows - 1) + r // ROWS * n_rows).to(tl.int64)
        rows = rows + (row,)
        sums = sums + (tl.zeros([BLOCK * 4], tl.float32),)
        row_scales = row_scales + (tl.load(scales + row),)
        for step in tl.static_range(3 if STEPS > 3 else STEPS):
            early = early + (load_words(words, row, step, LINES, BLOCK),)
        if BITS == 4:
            early_groups = early_groups + (
                load_groups(groups, row, 0, 0, LINES, BLOCK),
                load_groups(groups, row, 0, 1, LINES, BLOCK),
            )
    grid_wait(PDL)
    launch_dependents(PDL)
    residual = ()
    for r in tl.static_range(ROWS if RESIDUAL else 0):
        residual = residual + (tl.load(out + first_row + r, mask=first_row + r < n_rows, other=0.0).to(tl.float32),)
    EARLY: tl.constexpr = 3 if STEPS > 3 else STEPS
    squares = tl.zeros([BLOCK * 4], tl.float32)
    for step in tl.static_range(STEPS):
        w = ()
        group = ()
        for r in tl.static_range(WIDE):
            if step < EARLY:
                w = w + (early[r * EARLY + step],)
            else:
                w = w + (load_words(words, rows[r], step, LINES, BLOCK),)
            if BITS == 8:
                group = group + (first_row, first_row)  # unused
            elif step == 0:
                group = group + (early_groups[2 * r], early_groups[2 * r + 1])
            else:
                first = load_groups(groups, rows[r], step, 0, LINES, BLOCK)
                group = group + (first, load_groups(groups, rows[r], step, 1, LINES, BLOCK))
        word = step * (BLOCK * 32) + tl.arange(0, BLOCK * 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
        for part in tl.static_range(PARTS):
            at = word // 32 * (32 * PARTS) + part * 32 + word % 32
            element = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
            if NORM:
                squares += tl.sum(element * element, 1)
                element = element * tl.load(gain + at, mask=at < K, other=0.0).to(tl.float32)
            x_sum = tl.sum(element, 1)
            new_sums = ()
            for r in tl.static_range(WIDE):
                partial = part_sum(w[r], element, x_sum, group[2 * r], group[2 * r + 1], part, BITS)
                new_sums = new_sums + (sums[r] + partial,)
            sums = new_sums
    norm = tl.rsqrt(tl.sum(squares, 0) / K + eps) if NORM else 1.0
    for r in tl.static_range(ROWS):
        total = tl.sum(sums[r], 0) * row_scales[r] * norm
        if GATED:
            up = tl.sum(sums[ROWS + r], 0) * row_scales[ROWS + r] * norm
            total = gate_product(total, up, GELU)
        if RESIDUAL:
            total += residual[r]
        tl.store(out + first_row + r, total.to(out.dtype.element_ty), mask=first_row + r < n_rows)


def quantized_gemv(
    x: torch.Tensor,
    weight: QuantizedWeight,
    out: torch.Tensor,
    *,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    gelu: bool = False,
    residual: bool = False,
    pdl: bool = False,
    rows: int = 4,
    block: int = 32,
    warps: int = 4,
) -> None:
    """out [1, N] = norm(x [1, K]) · weightᵀ, with `gemv`'s norm, gate and residual.

    A program takes `rows` rows of the result (with `gated` as many gate and up rows) and `block` lines at a time.
    """
    weight_rows, k = weight.shape
    n, lines = weight_rows // 2 if gated else weight_rows, weight.words.shape[1] // 32
    quantized_gemv_kernel[(triton.cdiv(n, rows),)](
        x, gain if gain is not None else x, weight.words, weight.scales, weight.groups, out, n, eps,
        K=k, LINES=lines, BITS=weight.bits, ROWS=rows, BLOCK=min(block, triton.next_power_of_2(lines)),
        NORM=gain is not None, GATED=gated, RESIDUAL=residual, GELU=gelu, PDL=pdl, num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
