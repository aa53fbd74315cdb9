"""GEMM for many tokens with weights of 8 bits: bound by arithmetic, so a tile of weights is unpacked for many tokens.

Where products of 8 bits both ways are not wanted (int8 weights) or not there, it saves writing the whole matrix in 16
bits and reading it again, as cuBLAS would need it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.linear.eight_bit_matmul import eight_bit_dot
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def eight_bit_gemm_kernel(
    x, words, row_scales, out, T, N,
    K: tl.constexpr, LINES: tl.constexpr, FP8: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of BN weight rows and BT of the T tokens per program, tokens first. Pointers: see `eight_bit_gemm`."""
    WORDS: tl.constexpr = LINES * 32
    MASKED: tl.constexpr = WORDS % BK != 0 or K % 64 != 0
    rows = tl.program_id(1) * BN + tl.arange(0, BN)
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    live = (rows < N)[:, None] & (token < T)[None, :]
    w = words + tl.where(rows < N, rows, 0).to(tl.int64) * WORDS
    tokens = tl.where(token < T, token, 0).to(tl.int64)
    grid_wait(PDL)
    launch_dependents(PDL)
    acc = tl.zeros([BN, BT], tl.float32)
    for step in tl.range(0, (WORDS + BK - 1) // BK, num_stages=STAGES):
        word = step * BK + tl.arange(0, BK)
        acc, _ = eight_bit_dot(acc, acc, x, w, w, tokens, word, WORDS, K, FP8, False, MASKED, PRECISION)
    acc = acc * tl.load(row_scales + rows, mask=rows < N, other=0.0)[:, None]
    at = out + tokens[None, :] * N + rows[:, None]
    if ADD:
        acc += tl.load(at, mask=live, other=0.0).to(tl.float32)
    tl.store(at, acc.to(out.dtype.element_ty), mask=live)


def eight_bit_gemm(
    x: torch.Tensor,
    words: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    *,
    fp8: bool,
    add: bool = False,
    pdl: bool = False,
    bt: int = 256,
    bn: int = 128,
    bk: int = 32,
    stages: int = 4,
    warps: int = 8,
) -> None:
    """out [T, N] = x [T, K] · weightᵀ, or with `add` += …; words int16 [N, lines · 32] of int8 or `fp8`, scales [N].

    A program has `bn` weight rows and `bt` tokens, and takes `bk` words of a row at a time.
    """
    tokens, k = x.shape
    n = words.shape[0]
    eight_bit_gemm_kernel[(triton.cdiv(tokens, bt), triton.cdiv(n, bn))](
        x, words, scales, out, tokens, n, K=k, LINES=words.shape[1] // 32, FP8=fp8, BT=bt, BN=bn, BK=bk, STAGES=stages,
        ADD=add, PDL=pdl, PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
