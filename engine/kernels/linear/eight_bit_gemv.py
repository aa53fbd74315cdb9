"""GEMV with weights of 8 bits (`engine.model.quantization`): what `gemv` is for others.

A packed row is read so quickly that preparing the input would take longest. So a program computes several rows, which
share the norm and the conversion of the input. A thread loads 8 words, 16 columns, at a time.
"""

# A kernel has no starred expressions, and its tuples grow.
# ruff: noqa: RUF005, B007, SIM108
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.activation import gate_product
from engine.kernels.eight_bits import unpack_bytes
from engine.kernels.linear.gemv import DeferredValue
from engine.kernels.pdl import grid_wait, launch_dependents

EARLY_WORDS: tl.constexpr = tl.constexpr(8192)  # of all rows of a program, loaded before the input exists


@triton.jit
def load_row(words, row, step, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """int16 [BLOCK · 4, 8]: a row's words from line step · BLOCK on. A thread loads the second dimension."""
    at = step * (BLOCK * 32) + tl.arange(0, BLOCK * 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
    if LINES % BLOCK == 0:
        return tl.load(words + row * (LINES * 32) + at, eviction_policy="evict_first")
    return tl.load(words + row * (LINES * 32) + at, mask=at < LINES * 32, other=0, eviction_policy="evict_first")


@triton.jit
def load_early(words, rows, LINES: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """The first EARLY blocks of each of some rows (a tuple of int64), in one tuple, row by row."""
    early = ()
    for r in tl.static_range(len(rows)):
        for step in tl.static_range(EARLY):
            early = early + (load_row(words, rows[r], step, LINES, BLOCK),)
    return early


@triton.jit
def row_dots(
    x, gain, value_weight, value, words, rows, early,
    K: tl.constexpr, LINES: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
    NORM: tl.constexpr, DEFERRED: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """(dot products of some rows with x · gain, mean square of x), float32; `rows`: tuple of int64; see NORM.

    `early`: from `load_early`. Without NORM x is not multiplied by gain, and the second result is 1. x, value_weight,
    value, DEFERRED, G, D: see `gemv.row_products`.
    """
    STEPS: tl.constexpr = (LINES + BLOCK - 1) // BLOCK
    sums = ()
    for r in tl.static_range(len(rows)):
        sums = sums + (tl.zeros([BLOCK * 4, 8], tl.float32),)
    squares = tl.zeros([BLOCK * 4, 8], tl.float32)
    for step in tl.static_range(STEPS):
        w = ()
        for r in tl.static_range(len(rows)):
            if step < EARLY:
                w = w + (early[r * EARLY + step],)
            else:
                w = w + (load_row(words, rows[r], step, LINES, BLOCK),)
        word = step * (BLOCK * 32) + tl.arange(0, BLOCK * 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
        for part in tl.static_range(2):
            at = word // 32 * 64 + part * 32 + word % 32
            element = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
            if DEFERRED:
                new = tl.load(value + at // (G * D) * D + at % D, mask=at < K, other=0.0).to(tl.float32)
                element += tl.load(value_weight + at // D, mask=at < K, other=0.0) * new
            if NORM:
                squares += element * element
                element = element * tl.load(gain + at, mask=at < K, other=0.0).to(tl.float32)
            new_sums = ()
            for r in tl.static_range(len(rows)):
                new_sums = new_sums + (sums[r] + unpack_bytes(w[r], part, FP8, tl.float32) * element,)
            sums = new_sums
    mean_square = 1.0
    if NORM:
        mean_square = tl.sum(tl.sum(squares, 1), 0) / K
    totals = ()
    for r in tl.static_range(len(rows)):
        totals = totals + (tl.sum(tl.sum(sums[r], 1), 0),)
    return totals, mean_square


@triton.jit
def eight_bit_gemv_kernel(
    x, gain, words, scales, out, value_weight, value, n_rows, eps,
    K: tl.constexpr, LINES: tl.constexpr, FP8: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, DEFERRED: tl.constexpr, G: tl.constexpr,
    D: tl.constexpr, GELU: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """ROWS rows of the result per program, BLOCK of their LINES lines at a time.

    x, gain [K]; words int16 [rows, LINES · 32], scales float32 [rows]; out [n_rows]. With GATED the up rows follow the
    n_rows gate rows. NORM: RMSNorm of x; RESIDUAL: out += …; DEFERRED, G, D: see `gemv.row_products`. The rows are
    tuples of one tensor each, not one tensor, so that a thread holds the same columns of all of them.
    """
    WIDE: tl.constexpr = 2 * ROWS if GATED else ROWS  # with the gate: its rows, then their up rows
    STEPS: tl.constexpr = (LINES + BLOCK - 1) // BLOCK
    FITS: tl.constexpr = max(1, EARLY_WORDS // (WIDE * BLOCK * 32))
    EARLY: tl.constexpr = FITS if STEPS > FITS else STEPS
    first_row = tl.program_id(0) * ROWS
    rows = ()
    row_scales = ()
    for r in tl.static_range(WIDE):
        row = (tl.minimum(first_row + r % ROWS, n_rows - 1) + r // ROWS * n_rows).to(tl.int64)
        rows = rows + (row,)
        row_scales = row_scales + (tl.load(scales + row),)
    early = load_early(words, rows, LINES, BLOCK, EARLY)
    grid_wait(PDL)
    launch_dependents(PDL)
    residual = ()
    for r in tl.static_range(ROWS if RESIDUAL else 0):
        residual = residual + (tl.load(out + first_row + r, mask=first_row + r < n_rows, other=0.0).to(tl.float32),)
    sums, mean_square = row_dots(
        x, gain, value_weight, value, words, rows, early, K, LINES, FP8, BLOCK, EARLY, NORM, DEFERRED, G, D
    )
    norm = tl.rsqrt(mean_square + eps) if NORM else 1.0
    for r in tl.static_range(ROWS):
        total = sums[r] * row_scales[r] * norm
        if GATED:
            total = gate_product(total, sums[ROWS + r] * row_scales[ROWS + r] * norm, GELU)
        if RESIDUAL:
            total += residual[r]
        tl.store(out + first_row + r, total.to(out.dtype.element_ty), mask=first_row + r < n_rows)


def eight_bit_gemv(
    x: torch.Tensor,
    words: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    *,
    fp8: bool,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    gelu: bool = False,
    residual: bool = False,
    deferred: DeferredValue | None = None,
    num_rows: int | None = None,
    pdl: bool = False,
    rows: int = 4,
    block: int = 32,
    warps: int = 4,
) -> None:
    """out [1, N] = norm(x [1, K]) · weightᵀ, with `gemv`'s norm, gate, residual and deferred value.

    words int16 [N or with `gated` 2 · N, lines · 32] of int8 or `fp8`, scales float32 by row. A program takes `rows`
    rows of the result (with `gated` as many gate and up rows) and `block` lines at a time. `num_rows`: only the first.
    """
    k, lines = x.shape[1], words.shape[1] // 32
    n = num_rows or (words.shape[0] // 2 if gated else words.shape[0])
    eight_bit_gemv_kernel[(triton.cdiv(n, rows),)](
        x, gain if gain is not None else x, words, scales, out,
        deferred.weight if deferred else x, deferred.value if deferred else x, n, eps,
        K=k, LINES=lines, FP8=fp8, ROWS=rows, BLOCK=min(block, triton.next_power_of_2(lines)),
        NORM=gain is not None, GATED=gated, RESIDUAL=residual, DEFERRED=deferred is not None,
        G=deferred.group_size if deferred else 1, D=deferred.head_dim if deferred else 1, GELU=gelu, PDL=pdl,
        num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
