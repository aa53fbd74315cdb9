"""Chooses the tiling of products with 4-bit weights, by the number of tokens and the matrix's shape.

In a call, `rows` and `k` are the weight matrix's shape, `kind` its ending (matmul.PLAIN, GATED, RESIDUAL), `bm` the
tokens of a program, and `shared` the bytes of shared memory that one program may have.
"""

from __future__ import annotations

from engine.kernels.linear.matmul import GATED, GemmConfig
from engine.model.int4_weight import num_tiles

_MULTIPROCESSORS = 132  # of an H100


def int4_gemv_config(rows: int, k: int, kind: int) -> tuple[int, int, int]:
    """(16-row units of a program, warps, steps loaded ahead) of the GEMV."""
    tiles = num_tiles(rows, k)[1]
    warps = 8 if tiles > 24 else 4 if tiles > 3 else 2
    return 1, warps, 2 if kind == GATED else 4


def int4_matmul_config(rows: int, k: int, kind: int, bm: int, shared: int) -> GemmConfig:
    """The GEMM's tiling for up to 128 tokens.

    K is split until there are two programs for each multiprocessor; the pipeline is as deep as shared memory allows.
    """
    n, tiles = (rows // 2 if kind == GATED else rows), num_tiles(rows, k)[1]
    bn = 64 if n >= 1024 else 32
    split = 1
    while -(-n // bn) * split <= _MULTIPROCESSORS and tiles >= 4 * split:
        split *= 2
    for stages, bk in ((4, 256), (3, 256), (4, 128), (3, 128), (2, 128)):
        if pipeline_bytes(bn, bk, bm, kind) * stages <= shared:
            return GemmConfig(bn=bn, bk=bk, split=split, stages=stages, warps=bn // 16)
    return GemmConfig(bn=bn, bk=128, split=split, stages=1, warps=bn // 16)


def pipeline_bytes(bn: int, bk: int, bm: int, kind: int) -> int:
    """Bytes of shared memory that one stage of the pipeline needs, with activations of 16 bits."""
    height = 2 * bn if kind == GATED else bn
    return height * (bk // 2 + bk // 8) + bk * bm * 2


def int4_prompt_config(tokens: int, shared: int) -> tuple[int, GemmConfig]:
    """(tokens of a program, tiling) of the GEMM for prompts."""
    bm, bn = 128, 128
    stages = 3 if pipeline_bytes(bn, 128, bm, 0) * 3 <= shared else 2
    return bm, GemmConfig(bn=bn, bk=128, split=1, stages=stages, warps=8)
