"""Tilings to try for products at a rank's share of a model's matrices: shapes, present rules, candidates, neighbours.

It only computes with integers. rank_sweep.py measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from engine.bench.random_model import spec
from engine.distributed.tensor_parallel import ffn_width, kv_heads
from engine.kernels.linear.gemm_configs import fit_shared_memory, gemm_config, gemv_config, token_block
from engine.kernels.linear.matmul import GATED, PLAIN, GemmConfig

SHARED_MEMORY = 232448  # bytes of a program on an H100 or H200
PIPELINE = SHARED_MEMORY - 2048
MULTIPROCESSORS = 132
SCRATCH_FLOATS, SCRATCH_TILES = 1 << 23, 1 << 14  # of the engine's split-K
MAX_STAGES = 6


@dataclass(frozen=True, slots=True)
class GemvTiling:
    """A GEMV's tiling; see `gemv`."""

    block: int
    warps: int
    two_rows: bool


Tiling: TypeAlias = GemmConfig | GemvTiling


@dataclass(frozen=True, slots=True)
class Cell:
    """A product of `tokens` tokens with a rank's weights [rows, k]. `norm`: x is normalized; `pushes`: to other ranks.

    `heads` and `kv_heads` are the rank's: for one token, the product after attention first adds the token's own value.
    """

    product: str
    rows: int
    k: int
    kind: int
    tokens: int
    norm: bool
    pushes: bool
    heads: int
    kv_heads: int

    @property
    def n(self) -> int:
        """Columns of the result."""
        return self.rows // 2 if self.kind == GATED else self.rows

    @property
    def bm(self) -> int:
        """Tokens with padding."""
        return token_block(self.tokens)


def cells(model: str, world: int, tokens: list[int], scale: int = 1) -> list[Cell]:
    """The four products of a layer for each number of tokens; `scale` divides the sizes, for a trial on a CPU."""
    shape = spec(model)
    heads, kv, head_dim = shape.n_heads // world, kv_heads(shape, world), shape.head_dim
    dim, ffn = shape.dim // scale, ffn_width(shape, world) // scale
    if scale > 1:
        heads = kv = max(1, heads // scale)
    found = []
    for count in tokens:
        qkv = heads + kv if count == 1 else heads + 2 * kv  # attention projects the value of a single token
        for product, rows, k, kind in (
            ("wqkv", qkv * head_dim, dim, PLAIN),
            ("wo", dim, heads * head_dim, PLAIN),
            ("w13", 2 * ffn, dim, GATED),
            ("w2", dim, ffn, PLAIN),
        ):
            norm = product in ("wqkv", "w13")
            found.append(Cell(product, rows, k, kind, count, norm, count == 1 and not norm, heads, kv))
    return found


def present(cell: Cell, item: int, *, bulk: bool) -> Tiling:
    """The engine's present tiling. `item`: bytes of a weight; `bulk` is not used."""
    if cell.tokens == 1:
        return GemvTiling(*gemv_config(cell.k, cell.kind), two_rows=cell.kind != GATED)
    config = gemm_config(cell.rows, cell.k, cell.kind, cell.bm, item)
    return fit_shared_memory(config, cell.kind, cell.bm, item, SHARED_MEMORY)


def candidates(cell: Cell, item: int) -> list[Tiling]:
    """About a dozen tilings that differ much; of a GEMV all that make sense."""
    return list(_gemvs(cell) if cell.tokens == 1 else _gemms(cell, item))


def neighbours(cell: Cell, best: Tiling, item: int, *, bulk: bool) -> list[Tiling]:
    """Tilings that differ from the best so far in one number. `bulk`: the GPU has bulk tensor copies."""
    if isinstance(best, GemvTiling):
        return []
    found = [
        replace(best, early=not best.early, bulk=False),
        replace(best, stages=best.stages + 1),
        replace(best, stages=best.stages - 1),
        replace(best, warps=12 - best.warps),
        replace(best, split=best.split * 2),
        replace(best, split=max(1, best.split // 2)),
    ]
    if bulk and cell.k % (best.bk * best.split) == 0 and cell.n % best.bn == 0:
        found.append(replace(best, bulk=not best.bulk, early=False))
    return [tiling for tiling in dict.fromkeys(found) if _fits(cell, tiling, item) and tiling != best]


def _gemvs(cell: Cell) -> Iterator[Tiling]:
    for block in (256, 512, 1024, 2048):
        for warps in (1, 2, 4, 8):
            if 4 <= block // (32 * warps) <= 16 and block < 2 * cell.k:
                yield GemvTiling(block, warps, two_rows=False)
                if cell.kind != GATED:
                    yield GemvTiling(block, warps, two_rows=True)


def _gemms(cell: Cell, item: int) -> Iterator[Tiling]:
    for bn in (32, 64, 128):
        for bk in (64, 128, 256):
            if bk > cell.k or bn > cell.n:
                continue
            tiles = -(-cell.n // bn)
            splits = [split for split in (1, 2, 4, 8) if split == 1 or -(-cell.k // bk) >= 2 * split]
            splits.sort(key=lambda split: abs(math.log2(tiles * split / MULTIPROCESSORS)))
            for split in splits[: 2 if bk == 128 else 1]:
                warps = 8 if bn * (2 if cell.kind == GATED else 1) * cell.bm >= 1 << 14 else 4
                fitting = [GemmConfig(bn, bk, split, stages, warps) for stages in (5, 4, 3, 2)]
                yield from [tiling for tiling in fitting if _fits(cell, tiling, item)][:1]


def _fits(cell: Cell, tiling: GemmConfig, item: int) -> bool:
    """Whether a tiling is valid, and fits shared memory and the split-K scratch."""
    height = tiling.bn * (2 if cell.kind == GATED else 1)
    tiles = -(-cell.n // tiling.bn)
    return (
        2 <= tiling.stages <= MAX_STAGES
        and tiling.stages * tiling.bk * (height + cell.bm) * item <= PIPELINE
        and tiling.warps in (4, 8)
        and 1 <= tiling.split <= max(1, cell.k // tiling.bk)
        and (tiling.split == 1 or tiles * tiling.split * height * cell.bm <= SCRATCH_FLOATS)
        and tiles <= SCRATCH_TILES
    )
