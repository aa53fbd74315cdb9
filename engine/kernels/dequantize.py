"""Packed weights (`engine.model.quantization`) taken apart: inside a product's kernel, or a whole matrix in one pass.

Many tokens are bound by arithmetic, so their matrix is unfolded for the library's product: read once, written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents
from engine.model.quantization import QuantizedWeight


@triton.jit
def unpack_part(words, PART: tl.constexpr, BITS: tl.constexpr):
    """One part of some words as floats: byte − 128, or 128 + nibble.

    Bits put into a float's mantissa, below the exponent that makes its last one count 1, are that number: nothing is
    converted.
    """
    wide = words.to(tl.int32)
    if BITS == 8:
        value = (((wide >> (8 * PART)) & 0xFF) | 0x4B000000).to(tl.float32, bitcast=True) - 8388736.0
    else:
        value = (((wide << (16 - 4 * PART)) & 0xF0000) | 0x43000000).to(tl.float32, bitcast=True)
    return value


@triton.jit
def group_scale(groups, PART: tl.constexpr):
    """The factor of a part's group, from the word that holds two of them."""
    return ((groups >> (16 * (PART % 2))) & 0xFF).to(tl.float32)


@triton.jit
def group_offset(groups, PART: tl.constexpr):
    """What is added to factor · part_of: the group's middle stands for nibble 8, which reads as 136."""
    return ((groups << (16 - 16 * (PART % 2))) >> 24).to(tl.float32) * 16.0 - 136.0 * group_scale(groups, PART)


@triton.jit
def dequantize_kernel(
    words, scales, groups, out, n_rows,
    K: tl.constexpr, LINES: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = 16 // BITS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    line = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    j = tl.arange(0, 32)
    live = (row < n_rows)[:, None] & (line < LINES)[None, :]
    at = row.to(tl.int64)[:, None] * LINES + line[None, :]
    word = tl.load(words + at[:, :, None] * 32 + j[None, None, :], mask=live[:, :, None], other=0)
    scale = tl.load(scales + row, mask=row < n_rows, other=0.0)[:, None, None]
    # The product before may still be reading the scratch.
    grid_wait(PDL)
    launch_dependents(PDL)
    for part in tl.static_range(PARTS):
        value = unpack_part(word, part, BITS)
        if BITS == 4:
            pair = tl.load(groups + at * 2 + part // 2, mask=live, other=0)
            value = value * group_scale(pair, part)[:, :, None] + group_offset(pair, part)[:, :, None]
        column = (line * PARTS + part)[:, None] * 32 + j[None, :]
        to = out + row.to(tl.int64)[:, None, None] * K + column[None, :, :]
        value = (value * scale).to(out.dtype.element_ty)
        tl.store(to, value, mask=live[:, :, None] & (column < K)[None, :, :])


def dequantize(
    weight: QuantizedWeight, out: torch.Tensor, *, pdl: bool = False, rows: int = 1, block: int = 32
) -> None:
    """out [rows, K] = the matrix that `weight` stands for."""
    n, k = out.shape
    lines = weight.words.shape[1] // 32
    block = min(block, triton.next_power_of_2(lines))
    dequantize_kernel[(triton.cdiv(n, rows), triton.cdiv(lines, block))](
        weight.words, weight.scales, weight.groups, out, n, K=k, LINES=lines, BITS=weight.bits, ROWS=rows, BLOCK=block,
        PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
