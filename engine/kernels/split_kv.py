"""A step's contexts in parts of about equal length, listed once a step on the device for every layer's attention.

Contexts of a chat differ tenfold, and the longest would keep a few programs busy while the others are done. The list is
made from positions that live on the device, so a recorded step serves whatever its rows hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents

MAX_SPLITS = 16  # of one context
# Ints of the work list: how many parts there are; a part's slot, its number, its tiles, how many parts the slot has.
HEAD, ITEM = 4, 4


@triton.jit
def split_kv_kernel(
    slot_rows, positions, work, slots, target,
    BT: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, HEAD: tl.constexpr, ITEM: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program: parts of about equal length, and at least one for each slot with a row.

    Parts no longer than the mean context would do; where lengths differ much, shorter ones even out better.
    """
    grid_wait(PDL)
    launch_dependents(PDL)
    slot = tl.arange(0, BLOCK)
    row = tl.load(slot_rows + slot, mask=slot < slots, other=-1)
    live = row >= 0
    tiles = tl.cdiv(tl.load(positions + row, mask=live, other=0), BT)
    total = tl.sum(tiles, 0)
    top = tl.max(tiles, 0)
    uneven = 2 * top * tl.sum(live.to(tl.int32), 0) > 3 * total
    per = tl.maximum(tl.where(uneven, tl.cdiv(2 * total, 3 * target), tl.cdiv(total, target)), tl.cdiv(top, MOST))
    per = tl.maximum(per, LEAST)
    per = tl.maximum(tl.cdiv(tiles, tl.maximum(tl.cdiv(tiles, per), 1)), 1)  # of each slot: its parts are alike
    # Slot 0 has a part even without a row: somebody must wait for the kernel before (`pdl.py`).
    parts = tl.where(live | (slot == 0), tl.maximum(tl.cdiv(tiles, per), 1), 0)
    end = tl.cumsum(parts, 0)
    tl.store(work, tl.max(end, 0))
    for part in tl.static_range(MOST):
        item = work + HEAD + (end - parts + part) * ITEM
        there = part < parts
        tl.store(item, slot, mask=there)
        tl.store(item + 1, tl.zeros([BLOCK], tl.int32) + part, mask=there)
        tl.store(item + 2, per, mask=there)
        tl.store(item + 3, parts, mask=there)


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """How a step's contexts are shared out: about `target` parts of all of them together, half as many again where
    their lengths differ much, and how many tiles a part has at least; the tile's tokens; how many lanes the queries
    fill (1: no matrix product)."""

    target_splits: int
    tile_tokens: int = 32
    warps: int = 4
    stages: int = 2
    lanes: int | None = None
    min_tiles: int = 1

    def max_work_items(self, slots: int) -> int:
        """Parts that so many slots may have: each one's last may be short."""
        return slots + self.target_splits * 3 // 2


def work_list(parts: int, device: torch.device) -> torch.Tensor:
    """Memory for so many parts."""
    return torch.zeros(HEAD + ITEM * parts, dtype=torch.int32, device=device)


def split_kv(
    slot_rows: torch.Tensor, positions: torch.Tensor, work: torch.Tensor, *, config: SplitConfig, pdl: bool = False
) -> None:
    """The parts that `decode_attention` takes, by where the slots' rows are now."""
    slots = slot_rows.shape[0]
    split_kv_kernel[(1,)](
        slot_rows, positions, work, slots, config.target_splits, BT=config.tile_tokens, LEAST=config.min_tiles,
        MOST=MAX_SPLITS, HEAD=HEAD, ITEM=ITEM, BLOCK=triton.next_power_of_2(slots), PDL=pdl,
        num_warps=1, launch_pdl=pdl,
    )  # fmt: skip
