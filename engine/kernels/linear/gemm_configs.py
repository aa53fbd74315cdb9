"""Chooses the kernel for a matrix product, and its tiling, by the number of tokens and the matrix's shape.

One token: GEMV. Up to FUSED_TOKENS: our GEMM with fused norm, gate and residual. More: cuBLAS.
The tilings were measured on an H200 for the shapes of Llama 2 7B, 3 8B and 2 70B, of one rank and of one of four
(docs/performance.md); other shapes follow the rules behind them.

In a call, `rows` and `k` are the weight matrix's shape, `kind` its ending (matmul.PLAIN, GATED, RESIDUAL), `bm` the
tokens rounded up to a block, `item` the bytes of a weight, and `shared` the bytes of shared memory that one program may
have.
"""

from __future__ import annotations

from dataclasses import replace

import triton

from engine.kernels.linear.matmul import GATED, PLAIN, RESIDUAL, GemmConfig
from engine.model.eight_bit_weight import num_lines

FUSED_TOKENS = 128
_MULTIPROCESSORS = 132  # of an H100; one program runs on each at a time
_SHARED_RESERVE = 2048  # bytes of shared memory beside the pipeline
# Prompts with weights of 8 bits: (tokens, weight rows, words of a step, stages, warps) of a program, and the relative
# time of a round of programs. Large programs read tokens and weights less often; of those with 128 tokens two fit a
# multiprocessor. The last tiling fits every card.
EIGHT_BIT_PROMPT_TILINGS = (
    ((256, 64, 32, 3, 4), 24.1),
    ((128, 128, 32, 4, 4), 26.1),
    ((128, 64, 32, 3, 4), 14.3),
)


def token_block(tokens: int) -> int:
    """The GEMM's token dimension BM for this many tokens: a power of two, at least 16."""
    return max(16, int(triton.next_power_of_2(tokens)))


def gemv_config(k: int, kind: int) -> tuple[int, int]:
    """(columns of a block, warps) of the GEMV. Where K is no multiple of a large block, small ones waste least."""
    if kind == GATED:
        block, warps = (256, 2) if k >= 8192 else (2048, 8)
    else:
        block, warps = (1024, 8) if 2048 < k <= 4096 and k % 1024 == 0 else (256, 1)
    block = min(block, triton.next_power_of_2(k))
    return block, max(1, min(warps, block // 128))


def eight_bit_gemv_config(k: int, kind: int) -> tuple[int, int, int]:
    """(rows of a program, lines of a block, warps) of the GEMV with weights of 8 bits."""
    if kind == GATED:
        return 2, 16, 2
    if kind != RESIDUAL:
        return 4, 16, 2
    return (8, 16, 2) if k >= 8192 else (8, 32, 4)


def eight_bit_gemm_config(rows: int, k: int, kind: int, bm: int, item: int, shared: int) -> GemmConfig:
    """The GEMM's tiling with weights of 8 bits; its `bk` counts words of two columns, `item` is of the tokens' numbers.

    With few tokens a step takes many words, as little else is read. With many, most of what a program reads are tokens,
    which a tile of 128 rows shares.
    """
    n = rows // 2 if kind == GATED else rows
    bn, bk, stages, warps = 64, 64, 4, 4
    split = 1
    while n < 8192 and triton.cdiv(n, bn) * split <= _MULTIPROCESSORS and num_lines(k) * 32 // bk >= 8 * split:
        split *= 2
    if item == 4 or n < 1024 or k < 1024:
        bn, bk = 32, 32
    elif (bm <= 16 and split == 1) or (bm <= 32 and kind == GATED):
        bk, stages = 128, 3
    elif (bm == 64 and (split == 1 or k >= 8192)) or (bm == 128 and kind == PLAIN):
        bn, stages, warps = 128, 3, 8
    elif bm == 128:
        bk = 32
    height = bn * (2 if kind == GATED else 1)
    while stages * bk * 2 * (height + item * bm) > shared - _SHARED_RESERVE:
        if stages > 3 or bk == 32:
            stages -= 1
        else:
            bk //= 2
    return GemmConfig(bn=bn, bk=bk, split=split, stages=stages, warps=warps)


def eight_bit_prompt_config(rows: int, tokens: int, shared: int, *, bulk: bool) -> tuple[int, GemmConfig]:
    """(tokens of a program, tiling) of the GEMM for prompts of 16-bit tokens with weights of 8 bits.

    Of the tilings that fit the shared memory, it is the one whose rounds of programs take the least time.
    """

    def cost(tiling: tuple[tuple[int, int, int, int, int], float]) -> float:
        (bm, bn, bk, stages, _), program = tiling
        if eight_bit_prompt_bytes(bm, bn, bk, stages) > shared - _SHARED_RESERVE:
            return float("inf")
        return -(-(-(-rows // bn) * -(-tokens // bm)) // _MULTIPROCESSORS) * program

    bm, bn, bk, stages, warps = min(reversed(EIGHT_BIT_PROMPT_TILINGS), key=cost)[0]
    return bm, GemmConfig(bn=bn, bk=bk, split=1, stages=stages, warps=warps, bulk=bulk)


def eight_bit_prompt_bytes(bm: int, bn: int, bk: int, stages: int) -> int:
    """Bytes of the pipeline in shared memory: a stage has `bk` words of `bn` rows, 2 · `bk` columns of `bm` tokens."""
    return stages * bk * (2 * bn + 4 * bm)


def fit_shared_memory(config: GemmConfig, kind: int, bm: int, item: int, shared: int) -> GemmConfig:
    """The tiling, with a pipeline short enough for the shared memory: consumer cards have less than half an H100's."""
    rows = config.bn * (2 if kind == GATED else 1)
    while config.stages * (rows * item + bm * max(item, 2)) * config.bk > shared:
        if config.stages > 2:
            config = replace(config, stages=config.stages - 1)
        elif config.bk > 32:
            config = replace(config, bk=config.bk // 2)
        else:
            break
    return config


def gemm_config(rows: int, k: int, kind: int, bm: int, item: int = 2) -> GemmConfig:
    """The GEMM's tiling: programs that fill the GPU once, with tiles so large that tokens are read few times."""
    n = rows // 2 if kind == GATED else rows
    if item == 4 or k < 1024 or n < 1024:
        return GemmConfig(bn=32, bk=32 if item == 4 else 64, split=1, stages=3, warps=4)
    tiles = triton.cdiv(n, 64)
    if kind == GATED:
        return _gated_config(tiles, bm)
    if n >= 24576:
        return GemmConfig(bn=128, bk=128, split=1, stages=3 if bm > 16 else 4, warps=8 if bm > 64 else 4)
    # A chain of products alone is 2 % slower with it. In a step it overlaps with sums over ranks and attention.
    early = bm <= 32 and k <= 4096
    if tiles > _MULTIPROCESSORS:
        return GemmConfig(bn=64 if bm <= 32 else 128, bk=64, split=1, stages=5, warps=4, early=early)
    split = 1
    while tiles * split * 2 <= _MULTIPROCESSORS and k // 128 >= 16 * split:
        split *= 2
    if split == 1 and triton.cdiv(n, 32) <= _MULTIPROCESSORS:  # K is too short to split: tiles of 32 rows instead
        return GemmConfig(bn=32, bk=128 if bm <= 64 else 64, split=1, stages=5, warps=4, early=early)
    return GemmConfig(bn=64, bk=128, split=split, stages=5 if bm <= 64 else 4, warps=4, early=early)


def _gated_config(tiles: int, bm: int) -> GemmConfig:
    """The gated product's tiling, for `tiles` tiles of 64 rows. If they are few, a program has room for more stages."""
    if bm >= 64 and 2 * tiles <= _MULTIPROCESSORS:
        return GemmConfig(bn=64, bk=128, split=2, stages=4 if bm == 64 else 3, warps=4 if bm == 64 else 8)
    if tiles <= _MULTIPROCESSORS:
        return GemmConfig(bn=64, bk=128 if bm <= 32 else 64, split=1, stages=5, warps=4)
    return GemmConfig(bn=64, bk=128 if bm <= 64 else 64, split=1, stages=4 if bm <= 64 else 3, warps=4)
