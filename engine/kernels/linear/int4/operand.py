"""Dequantizes 4-bit weights (`engine.model.int4_weight`) in registers, into an operand of the tensor cores.

The words of a warp's rows are read in the operand's order, become pairs of columns, and are multiplied by their group's
scale, two at a time. With float16 or bfloat16 operands the scales and offsets are rounded to the same type: those of
weights that we rounded are exact in it, a file's float16 scales are as exact as bfloat16 weights are.

Tensors are [2, WARPS, 8, …]: the rows of WARPS · 16, in the order of `operand_rows`.
"""

# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from engine.kernels.linear.int4.codes import as_operand, based, code_base, unpack

# Before Hopper bfloat16 pairs have no other arithmetic than fused multiply-adds. 0x3F80 is 1, 0x8000 is -0.
_SCALE_BFLOAT16: tl.constexpr = tl.constexpr("""
{
.reg .b32 t, one, none;
mov.b32 one, 0x3F803F80;
mov.b32 none, 0x80008000;
fma.rn.bf16x2 t, $1, one, $2;
fma.rn.bf16x2 $0, t, $3, none;
}
""")
_SCALE_AND_OFFSET_BFLOAT16: tl.constexpr = tl.constexpr("""
{
.reg .b32 t, one;
mov.b32 one, 0x3F803F80;
fma.rn.bf16x2 t, $1, one, $2;
fma.rn.bf16x2 $0, t, $3, $4;
}
""")
_SCALE_FLOAT16: tl.constexpr = tl.constexpr("""
{
.reg .b32 t;
add.rn.f16x2 t, $1, $2;
mul.rn.f16x2 $0, t, $3;
}
""")
_SCALE_AND_OFFSET_FLOAT16: tl.constexpr = tl.constexpr("""
{
.reg .b32 t;
add.rn.f16x2 t, $1, $2;
fma.rn.f16x2 $0, t, $3, $4;
}
""")


@triton.jit
def _scaled(value, zero, scale, offset, FORMAT: tl.constexpr, ASM: tl.constexpr):
    """(value + zero) · scale + offset, all of one type and shape; the sum is exact."""
    dtype: tl.constexpr = value.dtype
    if ASM and dtype == tl.bfloat16 and FORMAT == 2:
        value = tl.inline_asm_elementwise(
            _SCALE_AND_OFFSET_BFLOAT16, "=r,r,r,r,r", [value, zero, scale, offset], tl.bfloat16, True, 2
        )
    elif ASM and dtype == tl.bfloat16:
        value = tl.inline_asm_elementwise(_SCALE_BFLOAT16, "=r,r,r,r", [value, zero, scale], tl.bfloat16, True, 2)
    elif ASM and dtype == tl.float16 and FORMAT == 2:
        value = tl.inline_asm_elementwise(
            _SCALE_AND_OFFSET_FLOAT16, "=r,r,r,r,r", [value, zero, scale, offset], tl.float16, True, 2
        )
    elif ASM and dtype == tl.float16:
        value = tl.inline_asm_elementwise(_SCALE_FLOAT16, "=r,r,r,r", [value, zero, scale], tl.float16, True, 2)
    else:
        wide = (value.to(tl.float32) + zero.to(tl.float32)) * scale.to(tl.float32)
        if FORMAT == 2:
            wide += offset.to(tl.float32)
        value = wide.to(dtype)
    return value


@triton.jit
def _over_words(term, WARPS: tl.constexpr):
    """[2, WARPS, 8], a value for each row -> [2, WARPS, 8, 32], the same for its words."""
    return term[:, :, :, None].broadcast_to(2, WARPS, 8, 32)


@triton.jit
def _dequantize_part(
    value, pairs, offsets, HALF: tl.constexpr, FORMAT: tl.constexpr, WARPS: tl.constexpr, ASM: tl.constexpr
):
    """[WARPS · 16, 32]: an unpacked part [2, WARPS, 8, 32] times the scales in one half of pairs [2, WARPS, 8]."""
    dtype: tl.constexpr = value.dtype
    bits = pairs >> (16 * HALF)
    if FORMAT == 1:
        scale = (bits & 0xFFF0).to(tl.int16).to(tl.float16, bitcast=True)
        zero = _over_words(-based(bits & 15, dtype), WARPS)
    else:
        scale = bits.to(tl.int16).to(tl.float16, bitcast=True)
        zero = tl.full([2, WARPS, 8, 32], -8.0 - code_base(dtype), dtype)
    scale = _over_words(scale.to(tl.float32).to(dtype), WARPS)
    offset = scale
    if FORMAT == 2:
        half = (offsets >> (16 * HALF)).to(tl.int16).to(tl.float16, bitcast=True)
        offset = _over_words(half.to(tl.float32).to(dtype), WARPS)
    return as_operand(_scaled(value, zero, scale, offset, FORMAT, ASM))


@triton.jit
def load_words(words, row, tile, half, TILES: tl.constexpr):
    """int16 [W · 16, 32]: 128 columns of rows [W · 16, 1]: half `half` of column tile `tile`."""
    at = ((row // 8).to(tl.int64) * TILES + tile) * 512 + half * 256 + row % 8 * 32
    return tl.load(words + at + tl.arange(0, 32)[None, :], eviction_policy="evict_first")


@triton.jit
def load_pairs(
    groups, row, tile, first, PLANE: tl.constexpr, PAIRS: tl.constexpr, TILES: tl.constexpr, PLANES: tl.constexpr
):
    """int32 [W · 16, PAIRS]: pairs of groups of the same rows, of plane PLANE and from the `first` pair on."""
    at = ((row // 8).to(tl.int64) * TILES + tile) * (32 * PLANES) + PLANE * 32 + row % 8 * 4 + first
    return tl.load(groups + at + tl.arange(0, PAIRS)[None, :], eviction_policy="evict_first")


@triton.jit
def two_pairs(pairs, half: tl.constexpr, WARPS: tl.constexpr):
    """Pairs 2 · half and 2 · half + 1 of [WARPS · 16, 2 or 4]: two tensors [2, WARPS, 8]."""
    if pairs.shape[1] == 4:
        even, odd = tl.split(pairs.reshape(2, WARPS, 8, 2, 2))
        even_first, even_second = tl.split(even)
        odd_first, odd_second = tl.split(odd)
        if half == 0:
            first = even_first
            second = odd_first
        else:
            first = even_second
            second = odd_second
    else:
        first, second = tl.split(pairs.reshape(2, WARPS, 8, 2))
    return first, second


@triton.jit
def dequantize_half(
    word, a, b, offset_a, offset_b,
    dtype: tl.constexpr, FORMAT: tl.constexpr, WARPS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """[WARPS · 16, 128] in dtype without the row scales, from words [WARPS · 16, 32] and pairs [2, WARPS, 8]."""
    p0, p1, p2, p3 = unpack(word.reshape(2, WARPS, 8, 32), dtype, ASM)
    p0 = _dequantize_part(p0, a, offset_a, 0, FORMAT, WARPS, ASM)
    p1 = _dequantize_part(p1, a, offset_a, 1, FORMAT, WARPS, ASM)
    p2 = _dequantize_part(p2, b, offset_b, 0, FORMAT, WARPS, ASM)
    p3 = _dequantize_part(p3, b, offset_b, 1, FORMAT, WARPS, ASM)
    joined = tl.join(tl.join(p0, p1), tl.join(p2, p3))  # [rows, 32, low bit of part, high bit]
    return tl.permute(joined, (0, 3, 2, 1)).reshape(WARPS * 16, 128)


@triton.jit
def operand_rows(first, WARPS: tl.constexpr):
    """[WARPS · 16, 1]: first + 0 … WARPS · 16 - 1, as [2, WARPS, 8]: 8 of each warp's rows, then the other 8.

    Loads are of two dimensions, so that Triton can only give a warp 8 rows, and four threads a row.
    """
    at = tl.arange(0, WARPS * 16)[:, None]
    return first + at // 8 % WARPS * 16 + at // (WARPS * 8) * 8 + at % 8
