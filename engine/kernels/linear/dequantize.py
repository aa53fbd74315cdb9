"""Dequantizes weights (`engine.model.quantized_weight`): a few columns inside a GEMM kernel, or a whole matrix.

With many tokens arithmetic is the bottleneck, so the whole matrix is dequantized once, for cuBLAS.

A packed row is lines of 32 words of 16 bits. A word holds 16 / BITS columns, its parts, which lie 32 apart: part p of
word j in line l is column (l · parts + p) · 32 + j. With 4 bits, each part of a line is a group with a scale and a zero
point of its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents
from engine.model.quantized_weight import QuantizedWeight


@triton.jit
def unpack_part(words, PART: tl.constexpr, BITS: tl.constexpr):
    """Part PART of int16 words, of any shape, as float32: byte − 128, or 128 + nibble.

    No conversion takes place: the code's bits go into the mantissa of a float whose exponent makes the code's lowest
    bit worth 1.
    """
    words = words.to(tl.int32)
    if BITS == 8:
        value = (((words >> (8 * PART)) & 0xFF) | 0x4B000000).to(tl.float32, bitcast=True) - 8388736.0
    else:
        value = (((words << (16 - 4 * PART)) & 0xF0000) | 0x43000000).to(tl.float32, bitcast=True)
    return value


@triton.jit
def group_scale(groups, PART: tl.constexpr):
    """The scale of part PART's group, from the int32 words that hold two groups each."""
    return ((groups >> (16 * (PART % 2))) & 0xFF).to(tl.float32)


@triton.jit
def group_offset(groups, PART: tl.constexpr):
    """The term to add to group_scale · unpack_part: zero point − 136 · scale, as nibble 8 is unpacked as 136."""
    return ((groups << (16 - 16 * (PART % 2))) >> 24).to(tl.float32) * 16.0 - 136.0 * group_scale(groups, PART)


@triton.jit
def dequantize_kernel(
    words, scales, groups, out, n_rows,
    K: tl.constexpr, LINES: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """ROWS rows and BLOCK of their LINES lines per program.

    words int16 [n_rows, LINES · 32], scales float32 [n_rows], groups int32 [n_rows, LINES · 2] -> out [n_rows, K].
    """
    PARTS: tl.constexpr = 16 // BITS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    line = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    j = tl.arange(0, 32)
    live = (row < n_rows)[:, None] & (line < LINES)[None, :]
    at = row.to(tl.int64)[:, None] * LINES + line[None, :]
    word = tl.load(words + at[:, :, None] * 32 + j[None, None, :], mask=live[:, :, None], other=0)
    scale = tl.load(scales + row, mask=row < n_rows, other=0.0)[:, None, None]
    # The GEMM before may still be reading `out`.
    grid_wait(PDL)
    launch_dependents(PDL)
    for part in tl.static_range(PARTS):
        value = unpack_part(word, part, BITS)
        if BITS == 4:
            group = tl.load(groups + at * 2 + part // 2, mask=live, other=0)
            value = value * group_scale(group, part)[:, :, None] + group_offset(group, part)[:, :, None]
        column = (line * PARTS + part)[:, None] * 32 + j[None, :]
        to = out + row.to(tl.int64)[:, None, None] * K + column[None, :, :]
        value = (value * scale).to(out.dtype.element_ty)
        tl.store(to, value, mask=live[:, :, None] & (column < K)[None, :, :])


def dequantize(
    weight: QuantizedWeight, out: torch.Tensor, *, pdl: bool = False, rows: int = 1, block: int = 32
) -> None:
    """out [N, K] = the matrix that `weight` represents, in out's dtype; `rows` rows and `block` lines per program."""
    n, k = out.shape
    lines = weight.words.shape[1] // 32
    block = min(block, triton.next_power_of_2(lines))
    dequantize_kernel[(triton.cdiv(n, rows), triton.cdiv(lines, block))](
        weight.words, weight.scales, weight.groups, out, n, K=k, LINES=lines, BITS=weight.bits, ROWS=rows, BLOCK=block,
        PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
