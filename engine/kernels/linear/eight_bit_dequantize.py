"""Dequantizes a whole matrix of 8-bit weights (`engine.model.eight_bit_weight`), for cuBLAS."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.eight_bits import unpack_bytes
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def eight_bit_dequantize_kernel(
    words, scales, out,
    K: tl.constexpr, LINES: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BLOCK lines of one row per program. Pointers: see `eight_bit_dequantize`; a thread has 8 words."""
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * (BLOCK * 32) + tl.arange(0, BLOCK * 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
    packed = tl.load(words + row * (LINES * 32) + word, mask=word < LINES * 32, other=0, eviction_policy="evict_first")
    scale = tl.load(scales + row)
    # The GEMM before may still be reading `out`.
    grid_wait(PDL)
    launch_dependents(PDL)
    for part in tl.static_range(2):
        column = word // 32 * 64 + part * 32 + word % 32
        value = unpack_bytes(packed, part, FP8, tl.float32) * scale
        tl.store(out + row * K + column, value.to(out.dtype.element_ty), mask=column < K)


def eight_bit_dequantize(
    words: torch.Tensor, scales: torch.Tensor, out: torch.Tensor, *, fp8: bool, pdl: bool = False, block: int = 32
) -> None:
    """out [N, K] = the matrix in out's dtype; words int16 [N, lines · 32] of int8 or `fp8`, scales float32 [N]."""
    n, k = out.shape
    lines = words.shape[1] // 32
    block = min(block, triton.next_power_of_2(lines))
    eight_bit_dequantize_kernel[(n, triton.cdiv(lines, block))](
        words, scales, out, K=k, LINES=lines, FP8=fp8, BLOCK=block, PDL=pdl, num_warps=4, launch_pdl=pdl
    )
