"""Two numbers of 8 bits in a word of 16, int8 or fp8 (e4m3), on their way to arithmetic: weights, keys and values.

A conversion instruction for each number would take longer than reading it, so none is used: a byte's bits go where the
wider format has them, two numbers in each instruction. int8 is b = (b & 127) − (b & 128). In bfloat16, or-ing b & 127
into 128 adds it, and or-ing b & 128 into 128 doubles it, so the difference of the two is b. An e4m3 number lies in a
wider one with its exponent's bias, which one multiplication by a power of two corrects; it is exact, also for
subnormals.

What Triton's interpreter cannot run (inline PTX) has a second form that says the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from engine.kernels.interpreter import INTERPRETED


@triton.jit
def unpack_bytes(words, PART: tl.constexpr, FP8: tl.constexpr, dtype: tl.constexpr):
    """The low (PART 0) or high (PART 1) bytes of int16 words, of any shape, as numbers of `dtype`.

    dtype: float32, bfloat16 or float16. FP8: they are e4m3 instead of int8.
    """
    if INTERPRETED:
        byte = (words.to(tl.int32) >> (8 * PART)) & 0xFF
        if FP8:
            bits = ((byte & 0x80) << 24) | ((byte & 0x7F) << 20)
            value = bits.to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2 ** 120
        else:
            value = ((byte ^ 0x80) - 128).to(tl.float32)
        return value.to(dtype)
    elif dtype == tl.bfloat16:
        return _as_bfloat16(words, PART, FP8)
    elif dtype == tl.float16:
        return _as_float16(words, PART, FP8)
    else:
        return _as_float32(words, PART, FP8)


@triton.jit
def e4m3_words(low, high):
    """int16 words of two e4m3 numbers, the nearest to float32 `low` and `high` of any shape, none beyond ±448.

    On a GPU one instruction converts both: when they were converted apart and joined, CUDA 12.8's ptxas lost the low
    byte of every second word.
    """
    if INTERPRETED:
        return _e4m3_bits(low) | (_e4m3_bits(high) << 8)
    return tl.inline_asm_elementwise(
        "cvt.rn.satfinite.e4m3x2.f32 $0, $2, $1;", "=h,f,f", [low, high], dtype=tl.int16, is_pure=True, pack=1
    )


@triton.jit
def _e4m3_bits(value):
    """In the interpreter, whose own conversion rounds some numbers to half of what they are: int16 from 0 to 255."""
    magnitude = tl.abs(value)
    bits = magnitude.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    subnormal = (magnitude * 512.0 + 12582912.0).to(tl.int32, bitcast=True) & 0xF
    code = tl.where(magnitude < 0.015625, subnormal, normal)
    return (code | tl.where(value < 0.0, 0x80, 0)).to(tl.int16)


@triton.jit
def rounded_to(x, dtype: tl.constexpr):
    """x, of any float dtype and shape, as `dtype`, e4m3 among others: the nearest numbers, in e4m3 none beyond ±448."""
    if dtype == tl.float8e4nv:
        if INTERPRETED:
            return _e4m3_bits(x.to(tl.float32)).to(tl.uint8).to(tl.float8e4nv, bitcast=True)
        return x.to(tl.float32).to(tl.float8e4nv)
    return x.to(dtype)


@triton.jit
def _as_bfloat16(words, PART: tl.constexpr, FP8: tl.constexpr):
    """`fma` stands for a product or a sum alone, which cards before Hopper lack for pairs of bfloat16."""
    if FP8:
        if PART == 0:
            return tl.inline_asm_elementwise(
                """{ .reg .b32 s, m, f, z; mov.b32 f, 0x7B807B80; mov.b32 z, 0x80008000;
                shl.b32 s, $1, 8; shl.b32 m, $1, 4; and.b32 m, m, 0x07F007F0;
                lop3.b32 m, s, 0x80008000, m, 0xEA; fma.rn.bf16x2 $0, m, f, z; }""",
                "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                """{ .reg .b32 m, f, z; mov.b32 f, 0x7B807B80; mov.b32 z, 0x80008000;
                shr.u32 m, $1, 4; and.b32 m, m, 0x07F007F0;
                lop3.b32 m, $1, 0x80008000, m, 0xEA; fma.rn.bf16x2 $0, m, f, z; }""",
                "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2,
            )  # fmt: skip
    elif PART == 0:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 p, q, f; mov.b32 f, 0x3F803F80;
            lop3.b32 p, $1, 0x007F007F, 0x43004300, 0xEA; lop3.b32 q, $1, 0x00800080, 0xC300C300, 0xEA;
            fma.rn.bf16x2 $0, p, f, q; }""",
            "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 p, q, f, t; mov.b32 f, 0x3F803F80; shr.u32 t, $1, 8;
            lop3.b32 p, t, 0x007F007F, 0x43004300, 0xEA; lop3.b32 q, t, 0x00800080, 0xC300C300, 0xEA;
            fma.rn.bf16x2 $0, p, f, q; }""",
            "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2,
        )  # fmt: skip


@triton.jit
def _as_float16(words, PART: tl.constexpr, FP8: tl.constexpr):
    """float16 has room for all 8 bits: an int8 and 128 more are or-ed into 1024, from which 1152 is taken."""
    if FP8:
        if PART == 0:
            return tl.inline_asm_elementwise(
                """{ .reg .b32 s, m, f; mov.b32 f, 0x5C005C00;
                shl.b32 s, $1, 8; shl.b32 m, $1, 7; and.b32 m, m, 0x3F803F80;
                lop3.b32 m, s, 0x80008000, m, 0xEA; mul.rn.f16x2 $0, m, f; }""",
                "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                """{ .reg .b32 m, f; mov.b32 f, 0x5C005C00;
                shr.u32 m, $1, 1; and.b32 m, m, 0x3F803F80;
                lop3.b32 m, $1, 0x80008000, m, 0xEA; mul.rn.f16x2 $0, m, f; }""",
                "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2,
            )  # fmt: skip
    elif PART == 0:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 p, f; mov.b32 f, 0xE480E480;
            lop3.b32 p, $1, 0x00FF00FF, 0x64806480, 0x6A; add.rn.f16x2 $0, p, f; }""",
            "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 p, f; mov.b32 f, 0xE480E480; shr.u32 p, $1, 8;
            lop3.b32 p, p, 0x00FF00FF, 0x64806480, 0x6A; add.rn.f16x2 $0, p, f; }""",
            "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2,
        )  # fmt: skip


@triton.jit
def _as_float32(words, PART: tl.constexpr, FP8: tl.constexpr):
    """int8: the byte and 128 more are the low bits of 2 ** 23; e4m3: by way of float16 (Ada and later)."""
    if FP8:
        if PART == 0:
            return tl.inline_asm_elementwise(
                """{ .reg .b16 a, b, l, h; .reg .b32 r; mov.b32 {a, b}, $2;
                cvt.rn.f16x2.e4m3x2 r, a; mov.b32 {l, h}, r; cvt.f32.f16 $0, l;
                cvt.rn.f16x2.e4m3x2 r, b; mov.b32 {l, h}, r; cvt.f32.f16 $1, l; }""",
                "=f,=f,r", [words], dtype=tl.float32, is_pure=True, pack=2,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                """{ .reg .b16 a, b, l, h; .reg .b32 r; mov.b32 {a, b}, $2;
                cvt.rn.f16x2.e4m3x2 r, a; mov.b32 {l, h}, r; cvt.f32.f16 $0, h;
                cvt.rn.f16x2.e4m3x2 r, b; mov.b32 {l, h}, r; cvt.f32.f16 $1, h; }""",
                "=f,=f,r", [words], dtype=tl.float32, is_pure=True, pack=2,
            )  # fmt: skip
    elif PART == 0:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 t, u; xor.b32 t, $2, 0x80808080;
            prmt.b32 u, t, 0x4B000000, 0x7440; mov.b32 $0, u; add.rn.f32 $0, $0, 0fCB000080;
            prmt.b32 u, t, 0x4B000000, 0x7442; mov.b32 $1, u; add.rn.f32 $1, $1, 0fCB000080; }""",
            "=f,=f,r", [words], dtype=tl.float32, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 t, u; xor.b32 t, $2, 0x80808080;
            prmt.b32 u, t, 0x4B000000, 0x7441; mov.b32 $0, u; add.rn.f32 $0, $0, 0fCB000080;
            prmt.b32 u, t, 0x4B000000, 0x7443; mov.b32 $1, u; add.rn.f32 $1, $1, 0fCB000080; }""",
            "=f,=f,r", [words], dtype=tl.float32, is_pure=True, pack=2,
        )  # fmt: skip
