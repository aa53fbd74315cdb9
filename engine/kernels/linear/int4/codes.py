"""Reads 4-bit weights (`engine.model.int4_weight`) inside a kernel: words, groups, and what their codes stand for.

A code is not converted: its bits go into the mantissa of a float16 or bfloat16 whose exponent makes the lowest of them
worth 1, so it becomes BASE + code. Two neighbouring columns share a register, so one instruction masks both and adds
the exponent. Compiled, this is inline assembly (ASM); Triton's interpreter runs the same in integers.

Tensors of words are [2, WARPS, 8, 32]: 16 rows of each warp as halves of 8, and 32 words, of which each of four threads
has 8. `as_operand` is the matrix [WARPS · 16, 32] in the order of the tensor cores' operand: no data moves.
"""

from __future__ import annotations

import triton
import triton.language as tl

_UNPACK_BFLOAT16: tl.constexpr = tl.constexpr("""
{
.reg .b32 t;
lop3.b32 $0, $4, 0x000F000F, 0x43004300, 0xEA;
shr.u32 t, $4, 4;
lop3.b32 $1, t, 0x000F000F, 0x43004300, 0xEA;
shr.u32 t, $4, 8;
lop3.b32 $2, t, 0x000F000F, 0x43004300, 0xEA;
shr.u32 t, $4, 12;
lop3.b32 $3, t, 0x000F000F, 0x43004300, 0xEA;
}
""")
_UNPACK_FLOAT16: tl.constexpr = tl.constexpr(_UNPACK_BFLOAT16.value.replace("0x43004300", "0x64006400"))


@triton.jit
def code_base(dtype: tl.constexpr):
    """What `unpack` adds to a code: the smallest power of two whose mantissa ends at 1."""
    return 1024.0 if dtype == tl.float16 else 128.0


@triton.jit
def based(codes, dtype: tl.constexpr):
    """code_base + int32 codes as dtype, without a conversion where it has 16 bits."""
    if dtype == tl.bfloat16:
        value = (codes | 0x4300).to(tl.int16).to(tl.bfloat16, bitcast=True)
    elif dtype == tl.float16:
        value = (codes | 0x6400).to(tl.int16).to(tl.float16, bitcast=True)
    else:
        value = codes.to(tl.float32) + 128.0
    return value


@triton.jit
def _unpack_part(words, PART: tl.constexpr, dtype: tl.constexpr):
    return based((words.to(tl.int32) >> (4 * PART)) & 15, dtype)


@triton.jit
def unpack(words, dtype: tl.constexpr, ASM: tl.constexpr):
    """The four parts of int16 words as dtype, each of the words' shape: code_base + code."""
    if ASM and dtype == tl.bfloat16:
        a, b, c, d = tl.inline_asm_elementwise(
            _UNPACK_BFLOAT16, "=r,=r,=r,=r,r", [words], (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), True, 2
        )
    elif ASM and dtype == tl.float16:
        a, b, c, d = tl.inline_asm_elementwise(
            _UNPACK_FLOAT16, "=r,=r,=r,=r,r", [words], (tl.float16, tl.float16, tl.float16, tl.float16), True, 2
        )
    else:
        a = _unpack_part(words, 0, dtype)
        b = _unpack_part(words, 1, dtype)
        c = _unpack_part(words, 2, dtype)
        d = _unpack_part(words, 3, dtype)
    return a, b, c, d


@triton.jit
def as_operand(tile):
    """[2, W, 8, 32] -> [W · 16, 32]: row 16w + 8h + g of it is [h, w, g], and its columns are in order."""
    return as_operands(tile).reshape(tile.shape[1] * 16, 32)


@triton.jit
def as_operands(tile):
    """[2, W, 8, 32] -> [W, 16, 32]: an operand for each warp."""
    split = tile.reshape(2, tile.shape[1], 8, 4, 4, 2)  # thread, pair of columns, column
    return tl.permute(split, (1, 0, 2, 4, 3, 5)).reshape(tile.shape[1], 16, 32)


@triton.jit
def group_terms(pairs, offset_pairs, HALF: tl.constexpr, FORMAT: tl.constexpr, dtype: tl.constexpr):
    """float32 (scale, term) of the low (HALF 0) or high groups of int32 pairs: w = scale · unpacked + term.

    FORMAT: SCALE (0), ZERO (1) or OFFSET (2); only the last reads `offset_pairs`.
    """
    bits = pairs >> (16 * HALF)
    if FORMAT == 1:
        scale = (bits & 0xFFF0).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        term = -scale * based(bits & 15, dtype).to(tl.float32)
    else:
        scale = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        term = -scale * (code_base(dtype) + 8.0)
        if FORMAT == 2:
            term += (offset_pairs >> (16 * HALF)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return scale, term
