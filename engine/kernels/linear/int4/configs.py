"""Chooses the tiling of products with 4-bit weights, by the number of tokens and the matrix's shape.

In a call, `rows` and `k` are the weight matrix's shape, `kind` its ending (matmul.PLAIN, GATED, RESIDUAL), `bm` the
tokens of a program, and `shared` the bytes of shared memory that one program may have. The rules follow measurements
on an H200 with the matrices of Llama 2 7B (docs/bench/h200-int4.jsonl).
"""

from __future__ import annotations

from engine.kernels.linear.matmul import GATED, RESIDUAL, GemmConfig
from engine.model.int4_weight import num_tiles

_MULTIPROCESSORS = 132  # of an H100 or H200
_FEW_PROGRAMS = 200  # fewer do not keep all multiprocessors busy
_LONG = 32  # tiles of 256 columns in a row from which on programs take two units of 16 rows, which share the input
_MAX_STEPS = 8  # of a program of the GEMV, which is unrolled
# Prompts: (tokens, weight rows, stages, warps) of a program, and its time in proportion.
_PROMPT_TILINGS = (
    ((256, 128, 3, 8), 49.5),
    ((128, 128, 3, 8), 30.6),
    ((256, 64, 3, 4), 28.8),
    ((128, 128, 2, 8), 40.0),
)


def int4_gemv_config(rows: int, k: int, kind: int) -> tuple[int, int, int]:
    """(16-row units of a program, warps that share a row, steps loaded ahead) of the GEMV."""
    n, tiles = (rows // 2 if kind == GATED else rows), num_tiles(rows, k)[1]
    units = -(-n // 16)
    height = 2 if kind == RESIDUAL and tiles > _LONG else 1
    warps = 4 if kind == GATED else 2 if units >= 700 else 8
    while -(-tiles // warps) > _MAX_STEPS and warps < 16:
        warps *= 2
    while warps > tiles:
        warps //= 2
    return height, warps, 2 if -(-tiles // warps) <= 2 else 1


def int4_matmul_config(rows: int, k: int, kind: int, bm: int, shared: int) -> GemmConfig:
    """The GEMM's tiling for up to 128 tokens.

    K is split until there are enough programs, of which two fit a multiprocessor; the pipeline is as deep as they let.
    """
    n, tiles = (rows // 2 if kind == GATED else rows), num_tiles(rows, k)[1]
    bn = 64 if n >= 1024 else 32
    split = 1
    while -(-n // bn) * split < _FEW_PROGRAMS and tiles >= 4 * split:
        split *= 2
    for room in (shared // 2, shared):
        for stages, bk in ((4, 256), (3, 256), (4, 128), (3, 128), (2, 128)):
            if pipeline_bytes(bn, bk, bm, kind) * stages <= room:
                return GemmConfig(bn=bn, bk=bk, split=split, stages=stages, warps=bn // 16)
    return GemmConfig(bn=bn, bk=128, split=split, stages=1, warps=bn // 16)


def pipeline_bytes(bn: int, bk: int, bm: int, kind: int) -> int:
    """Bytes of shared memory that one stage of the pipeline needs, with activations of 16 bits."""
    height = 2 * bn if kind == GATED else bn
    return height * (bk // 2 + bk // 8) + bk * bm * 2


def int4_prompt_config(rows: int, tokens: int, shared: int) -> tuple[int, GemmConfig]:
    """(tokens of a program, tiling) of the GEMM for prompts: the one whose rounds of programs take the least time."""

    def cost(tiling: tuple[tuple[int, int, int, int], float]) -> float:
        (bm, bn, stages, _), program = tiling
        if stages * pipeline_bytes(bn, 128, bm, 0) > shared:
            return float("inf")
        return -(-(-(-rows // bn) * -(-tokens // bm)) // _MULTIPROCESSORS) * program

    bm, bn, stages, warps = min(_PROMPT_TILINGS, key=cost)[0]
    return bm, GemmConfig(bn=bn, bk=128, split=1, stages=stages, warps=warps)
