"""Split-KV: contexts divided into splits of about equal length (flash-decoding, Dao et al. 2023), and their merge.

The contexts of a batch differ tenfold: without splits the longest would keep a few programs busy while the others idle.
A kernel lists the splits once a step, for every layer's attention, from positions that live on the device; so a CUDA
graph serves whatever its rows hold.

The work list is int32: the number of items, padded to HEADER ints; then for each item, one split of one slot's context,
ITEM ints: slot, split, tiles of each of the slot's splits, number of the slot's splits. A tile is the TILE positions
that attention reads at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents

MAX_SPLITS = 16  # of one context
HEADER, ITEM = 4, 4  # ints of the work list


@triton.jit
def split_kv_kernel(
    slot_rows, positions, work, prefixes, num_slots, target,
    TILE: tl.constexpr, MIN_TILES: tl.constexpr, MAX_SPLITS: tl.constexpr, HEADER: tl.constexpr, ITEM: tl.constexpr,
    BLOCK: tl.constexpr, WINDOW: tl.constexpr, PREFIX: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write the work list. One program; BLOCK >= num_slots.

    slot_rows int32 [num_slots]: each slot's row, -1 for none; positions int32 by row: cached tokens. About `target`
    splits in all. Splits as long as the mean context suffice; where lengths differ much, shorter splits balance better.
    WINDOW: tiles that lie wholly before it belong to no split; 0: none. PREFIX: nor do those of the prefixes that slots
    share, `PrefixWork.slots`.
    """
    grid_wait(PDL)
    launch_dependents(PDL)
    slot = tl.arange(0, BLOCK)
    row = tl.load(slot_rows + slot, mask=slot < num_slots, other=-1)
    live = row >= 0
    cached = tl.load(positions + row, mask=live, other=0)
    tiles = tl.cdiv(cached, TILE)
    if WINDOW > 0:
        tiles -= tl.maximum(cached - WINDOW + 1, 0) // TILE
    if PREFIX:
        tiles -= tl.load(prefixes + slot * 2, mask=live, other=0) // TILE
    total = tl.sum(tiles, 0)
    longest = tl.max(tiles, 0)
    uneven = 2 * longest * tl.sum(live.to(tl.int32), 0) > 3 * total
    per = tl.maximum(
        tl.where(uneven, tl.cdiv(2 * total, 3 * target), tl.cdiv(total, target)), tl.cdiv(longest, MAX_SPLITS)
    )
    per = tl.maximum(per, MIN_TILES)
    per = tl.maximum(tl.cdiv(tiles, tl.maximum(tl.cdiv(tiles, per), 1)), 1)  # by slot: its splits are equally long
    # Slot 0 gets a split even without a row: one program must wait for the kernel before (see pdl.py).
    num_splits = tl.where(live | (slot == 0), tl.maximum(tl.cdiv(tiles, per), 1), 0)
    end = tl.cumsum(num_splits, 0)
    tl.store(work, tl.max(end, 0))
    for split in tl.static_range(MAX_SPLITS):
        item = work + HEADER + (end - num_splits + split) * ITEM
        exists = split < num_splits
        tl.store(item, slot, mask=exists)
        tl.store(item + 1, tl.zeros([BLOCK], tl.int32) + split, mask=exists)
        tl.store(item + 2, per, mask=exists)
        tl.store(item + 3, num_splits, mask=exists)


@triton.jit
def combine_splits(partial_out, partial_stats, head, num_splits, D: tl.constexpr, SPLITS: tl.constexpr):
    """Merge one head's splits, in fixed order: (output [D], softmax sum, each split's scale [SPLITS]).

    partial_out float32 [heads, SPLITS, D] holds sums of exp2(score − max) · value, and partial_stats float32
    [heads, SPLITS, 2] max and sum. Both results are relative to the largest max; divide the first by the second.
    """
    d = tl.arange(0, D)
    split = tl.arange(0, SPLITS)
    exists = split < num_splits
    at = head * SPLITS + split
    split_max = tl.load(partial_stats + at * 2, mask=exists, other=-1.0e30, cache_modifier=".cg")
    split_sum = tl.load(partial_stats + at * 2 + 1, mask=exists, other=0.0, cache_modifier=".cg")
    outs = tl.load(partial_out + at[:, None] * D + d[None, :], mask=exists[:, None], other=0.0, cache_modifier=".cg")
    scale = tl.exp2(split_max - tl.max(split_max, 0))
    return tl.sum(outs * scale[:, None], 0), tl.sum(split_sum * scale, 0), scale


@triton.jit
def combine_group_splits(
    partial_out, partial_stats, heads, live, num_splits, GP: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr
):
    """Merge the splits of GP heads, of which `live` exist, split after split: (output [GP, D], softmax sum [GP]).

    The same buffers and the same result as `combine_splits`; a loop, as all splits of a group do not fit in registers.
    """
    d = tl.arange(0, D)
    best = tl.full([GP], -1.0e30, tl.float32)
    total = tl.zeros([GP], tl.float32)
    out = tl.zeros([GP, D], tl.float32)
    for split in range(0, num_splits):
        at = heads * SPLITS + split
        split_max = tl.load(partial_stats + at * 2, mask=live, other=-1.0e30, cache_modifier=".cg")
        split_sum = tl.load(partial_stats + at * 2 + 1, mask=live, other=0.0, cache_modifier=".cg")
        outs = tl.load(partial_out + at[:, None] * D + d[None, :], mask=live[:, None], other=0.0, cache_modifier=".cg")
        higher = tl.maximum(best, split_max)
        total = total * tl.exp2(best - higher) + split_sum * tl.exp2(split_max - higher)
        out = out * tl.exp2(best - higher)[:, None] + outs * tl.exp2(split_max - higher)[:, None]
        best = higher
    return out, total


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """How contexts are split, and how attention runs over a split.

    `target_splits`: splits of all contexts together, half as many again where lengths differ much. `tile_tokens`:
    positions of a tile. `min_tiles`: tiles of the shortest split. `lanes`: queries of a matrix product, the heads of a
    group padded to it; 1: no matrix product; None: by the group's size. `warps`, `stages`: Triton's. `early_tiles`:
    tiles of a split that `single_row.py` reads into registers before the query exists.
    """

    target_splits: int
    tile_tokens: int = 32
    warps: int = 4
    stages: int = 2
    lanes: int | None = None
    min_tiles: int = 1
    early_tiles: int = 0

    def max_work_items(self, slots: int) -> int:
        """Upper bound on splits for `slots` sequences; the last split of each may be partial."""
        return slots + self.target_splits * 3 // 2


def work_list(max_items: int, device: torch.device) -> torch.Tensor:
    """Memory for a work list of up to `max_items` items."""
    return torch.zeros(HEADER + ITEM * max_items, dtype=torch.int32, device=device)


def split_kv(
    slot_rows: torch.Tensor, positions: torch.Tensor, work: torch.Tensor, *, config: SplitConfig,
    window: int | None = None, prefixes: torch.Tensor | None = None, pdl: bool = False,
) -> None:  # fmt: skip
    """Write the work list that `decode_attention` takes, from where the slots' rows are now, for layers of a `window`.

    slot_rows int32 [slots]; positions int32 [rows]; work int32, from `work_list(config.max_work_items(slots))`;
    prefixes: `PrefixWork.slots`, for layers without a window whose shared prefixes are read apart.
    """
    num_slots = slot_rows.shape[0]
    split_kv_kernel[(1,)](
        slot_rows, positions, work, work if prefixes is None else prefixes, num_slots, config.target_splits,
        TILE=config.tile_tokens, MIN_TILES=config.min_tiles, MAX_SPLITS=MAX_SPLITS, HEADER=HEADER, ITEM=ITEM,
        BLOCK=triton.next_power_of_2(num_slots), WINDOW=window or 0, PREFIX=prefixes is not None, PDL=pdl,
        num_warps=1, launch_pdl=pdl,
    )  # fmt: skip
