"""Configurations of decode attention to try at a rank's share of the heads: shapes, the present rule, candidates.

It only computes with integers. attention_sweep.py measures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch

from engine.bench.random_model import spec
from engine.distributed.tensor_parallel import kv_heads
from engine.kernels.attention.split_kv import SplitConfig
from engine.runner.cuda.batch.input_batch import BatchShape
from engine.runner.cuda.layers.attention import CudaAttention

MAX_TARGET = 4096  # splits of all rows together


@dataclass(frozen=True, slots=True)
class Share:
    """One of `world` ranks' heads of a model, in steps of `rows` rows; `dim`: the residual stream's width.

    `apart`: the value is projected before attention even for a single row, as with weights of 4 bits.
    """

    model: str
    world: int
    rows: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    apart: bool = False

    @property
    def fused(self) -> bool:
        """Whether the attention kernel also projects the value."""
        return self.rows == 1 and not self.apart


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration to time. `block`: columns of the value projection's weights read at a time (one row only)."""

    config: SplitConfig
    block: int = 1024

    def __str__(self) -> str:
        c = self.config
        parts = [
            f"{c.target_splits} splits",
            f"tile {c.tile_tokens}",
            f"w{c.warps}",
            f"s{c.stages}",
            f"min {c.min_tiles}",
        ]
        parts += [f"lanes {c.lanes}"] if c.lanes else []
        parts += [f"early {c.early_tiles}"] if c.early_tiles else []
        return " ".join(parts + ([f"block {self.block}"] if self.block != 1024 else []))

    @property
    def compiled(self) -> Candidate:
        """The candidate to compile for all that share its program: a batch's splits are read on the device."""
        return replace(self, config=replace(self.config, target_splits=1, min_tiles=1))


def share(name: str, rows: int, scale: int = 1, *, apart: bool = False) -> Share:
    """The share that `name` says: model/world size, as in 70b/8. `scale` divides the sizes, for a trial on a CPU."""
    model, _, world = name.partition("/")
    shape, ranks = spec(model), int(world)
    heads, kv = shape.n_heads // ranks, kv_heads(shape, ranks)
    group, kv = heads // kv, max(1, kv // scale)
    return Share(model, ranks, rows, shape.dim // scale, kv * group, kv, shape.head_dim, apart)


def present(cell: Share) -> Candidate:
    """The engine's choice on a data-center GPU with 16-bit caches."""
    pages = SimpleNamespace(k=[torch.empty(0, dtype=torch.bfloat16)])
    layer: Any = SimpleNamespace(
        _gpu=True, _takes_large_tiles=True, kv=pages, heads=cell.heads, kv_heads=cell.kv_heads, head_dim=cell.head_dim
    )
    if cell.rows == 1:
        return Candidate(CudaAttention._single_row_config(layer))
    return Candidate(CudaAttention._split_config(layer, BatchShape(cell.rows, 0)))


def candidates(cell: Share, now: Candidate) -> list[Candidate]:
    """The present configuration, then about twenty that differ much from it, the most promising first."""
    return list(dict.fromkeys([now, *(_single_row() if cell.rows == 1 else _batch(cell, now))]))


def neighbours(cell: Share, best: Candidate) -> list[Candidate]:
    """Configurations that differ from the best so far in one number."""
    c = best.config
    changes: list[dict[str, int]] = [{"min_tiles": c.min_tiles * 2}, {"min_tiles": max(1, c.min_tiles // 2)}]
    targets = [c.target_splits * 2, c.target_splits // 2]
    if cell.rows > 1:
        changes += [{"target_splits": each} for each in (*targets, cell.rows) if cell.rows <= each <= MAX_TARGET]
    else:
        changes += [{"target_splits": each} for each in targets if 4 <= each <= 32]
    if cell.rows == 1:  # tiles that are read early stay in registers
        changes += [{"early_tiles": each} for each in (0, 1, 2, 4) if each * c.tile_tokens <= 64]
    changes += [{"stages": c.stages + 1}, {"stages": max(1, c.stages - 1)}]
    changes += [{"warps": min(8, c.warps * 2)}, {"warps": max(1, c.warps // 2)}]
    found = [replace(best, config=replace(c, **change)) for change in changes]
    if cell.fused:
        found += [replace(best, block=512), replace(best, block=2048)]
    return [each for each in dict.fromkeys(found) if each != best]


def _single_row() -> list[Candidate]:
    """Configurations for one row; the columns are splits, tile, warps, stages, shortest split in tiles, early tiles."""
    numbers = [
        (16, 16, 4, 3, 4, 4), (16, 16, 4, 3, 4, 2), (16, 16, 4, 3, 2, 2), (16, 16, 4, 3, 4, 1),
        (16, 16, 8, 3, 4, 4), (16, 16, 4, 3, 2, 0), (8, 16, 4, 3, 4, 4), (8, 16, 8, 3, 4, 4),
        (16, 32, 4, 2, 2, 2), (16, 32, 8, 2, 2, 2), (16, 16, 2, 3, 4, 2), (16, 16, 4, 3, 8, 4),
        (32, 16, 4, 3, 2, 2), (16, 64, 8, 2, 1, 1), (16, 16, 8, 3, 4, 0), (16, 16, 2, 3, 4, 0),
        (16, 32, 4, 2, 2, 0), (4, 32, 8, 3, 4, 2), (16, 16, 4, 2, 4, 0), (16, 16, 4, 4, 4, 0),
        (8, 16, 4, 3, 4, 0), (32, 16, 4, 3, 2, 0), (16, 64, 8, 2, 1, 0), (16, 16, 4, 3, 8, 0),
    ]  # fmt: skip
    return [
        Candidate(SplitConfig(splits, tile, warps, stages, min_tiles=least, early_tiles=early))
        for splits, tile, warps, stages, least, early in numbers
    ]


def _batch(cell: Share, now: Candidate) -> list[Candidate]:
    """Configurations for several rows: other programs with the present splits, then half and twice as many splits."""
    target = now.config.target_splits
    targets = [each for each in (target // 2, target * 2) if cell.rows <= each <= MAX_TARGET]
    products = [(32, 4, 2), (64, 4, 2), (16, 2, 4), (64, 2, 3), (32, 2, 3), (64, 4, 3), (32, 4, 3), (16, 2, 3),
                (64, 8, 2), (64, 2, 2)]  # fmt: skip
    single = [(16, 2, 4), (32, 2, 3), (32, 4, 2), (16, 1, 3), (16, 4, 3), (16, 2, 2), (32, 4, 3), (64, 4, 2)]
    programs = [(None if cell.heads != cell.kv_heads else 16, *each) for each in products]
    if cell.heads == cell.kv_heads:
        rest = [(None, *each) for each in single]
        programs = [each for pair in zip(programs, rest, strict=False) for each in pair] + programs[len(rest) :]
    least = now.config.min_tiles
    return [
        *(replace(now, config=replace(now.config, target_splits=each)) for each in targets),
        *(Candidate(SplitConfig(target, tile, w, s, lanes, least)) for lanes, tile, w, s in programs),
        *(Candidate(SplitConfig(each, *programs[0][1:], programs[0][0], least)) for each in targets),
    ]
