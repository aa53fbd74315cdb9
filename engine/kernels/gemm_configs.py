"""Which kernel multiplies by a matrix, and how it is cut: by the number of tokens and the matrix's shape.

Measured on an H100 for the shapes of Llama 2 7B (docs/performance.md); other shapes take the rule that those follow.
One token: GEMV. Up to 128: the fused small product. More: cuBLAS, with the small kernels around it.
Tilings for packed weights follow from what the compiler says of registers and shared memory.
"""

from __future__ import annotations

from dataclasses import replace

import triton

from engine.kernels.matmul import SILU, GemmConfig
from engine.model.quantization import num_lines

FUSED_TOKENS = 128
_MULTIPROCESSORS = 132  # of an H100: so many programs run at once, one on each


def token_block(tokens: int) -> int:
    """The small product's token dimension for so many tokens."""
    return max(16, int(triton.next_power_of_2(tokens)))


def gemv_config(k: int, kind: int) -> tuple[int, int]:
    """(columns a block, warps) of the one-token product."""
    widest = triton.next_power_of_2(k)
    if kind != SILU:
        return min(1024, widest), max(1, min(4, widest // 128))
    block = min(2048, widest)
    return block, max(1, min(8, block // 128))


def quantized_gemv_config(kind: int) -> tuple[int, int, int]:
    """(rows a program, lines a block, warps) of the one-token product with packed weights."""
    return (2 if kind == SILU else 4), 32, 4


def quantized_gemm_config(rows: int, k: int, kind: int, bm: int, bits: int, shared: int) -> GemmConfig:
    """The small product's tiling with packed weights: one or two lines of words a step, programs for every
    multiprocessor twice, and a pipeline that fits its `shared` memory."""
    n, lines = (rows // 2 if kind == SILU else rows), num_lines(k, bits)
    bn = 64 if n >= 1024 else 32
    pair = lines % 2 == 0 and kind != SILU and (bits == 8 or bm <= 32)
    bk = 64 if pair else 32
    split = 1
    while n < 8192 and triton.cdiv(n, bn) * split <= _MULTIPROCESSORS and lines * 32 // bk >= 8 * split:
        split *= 2
    # A line's bytes, tokens of 32 bits among the possible ones.
    height = bn * (2 if kind == SILU else 1)
    line = height * (64 + (8 if bits == 4 else 0)) + 512 // bits * bm * 4
    for stages, width in ((4, bk), (3, bk), (2, bk), (4, 32), (3, 32), (2, 32)):
        if stages * line * width // 32 <= shared:
            return GemmConfig(bn=bn, bk=width, split=split, stages=stages, warps=4)
    return GemmConfig(bn=bn, bk=32, split=split, stages=1, warps=4)


def fit_shared_memory(tiling: GemmConfig, kind: int, bm: int, item: int, shared: int) -> GemmConfig:
    """The tiling with a pipeline that fits a multiprocessor's shared memory: consumer cards have less than half an
    H100's."""
    rows = tiling.bn * (2 if kind == SILU else 1)
    while tiling.stages * (rows * item + bm * max(item, 2)) * tiling.bk > shared:
        if tiling.stages > 2:
            tiling = replace(tiling, stages=tiling.stages - 1)
        elif tiling.bk > 32:
            tiling = replace(tiling, bk=tiling.bk // 2)
        else:
            break
    return tiling


def gemm_config(rows: int, k: int, kind: int, bm: int, item: int = 2, *, bulk: bool = False) -> GemmConfig:
    """The small product's tiling: enough programs to fill the GPU once, tiles that keep the tokens' traffic low.

    `bulk`: the GPU has bulk tensor copies (Hopper).
    """
    n = rows // 2 if kind == SILU else rows
    if item == 4 or k < 1024 or n < 1024:
        return GemmConfig(bn=32, bk=32 if item == 4 else 64, split=1, stages=3, warps=4)
    deep = 4 if bm <= 64 else 3
    if kind == SILU:
        return GemmConfig(bn=64, bk=128 if bm <= 64 else 64, split=1, stages=deep, warps=4)
    if n >= 24576:
        return GemmConfig(bn=128, bk=128, split=1, stages=3 if bm > 16 else 4, warps=8 if bm > 64 else 4)
    if n >= 8192:
        if bm <= 32:
            return GemmConfig(bn=64, bk=128, split=1, stages=3, warps=4, early=item == 2)
        if bulk and item == 2 and bm <= 64 and k % 128 == 0:
            return GemmConfig(bn=128, bk=128, split=1, stages=3, warps=4, bulk=True)
        return GemmConfig(bn=64, bk=128 if bm <= 64 else 64, split=1, stages=3, warps=4)
    if k <= 4096 and k % 256 == 0 and triton.cdiv(n, 32) <= _MULTIPROCESSORS and bm == 64:
        return GemmConfig(bn=32, bk=256, split=1, stages=deep, warps=4)
    split = 1
    while triton.cdiv(n, 64) * split * 2 <= _MULTIPROCESSORS and k // 128 % (split * 2) == 0:
        split *= 2
    if bm <= 32:
        short = k <= 4096
        return GemmConfig(bn=64, bk=128, split=split, stages=5 if short else 6, warps=4, early=short and item == 2)
    return GemmConfig(bn=64, bk=128, split=split, stages=deep, warps=4)
