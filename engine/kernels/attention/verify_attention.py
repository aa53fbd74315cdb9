"""Attention of rows that verify drafts: a few new tokens of each row over its paged context.

`rotate_and_store` comes first, so keys and values of the new tokens are read from the pages as those before them are.
The queries of all a row's new tokens, with all query heads of a kv head, make one matrix, and a tile of the context is
read once for them. Long contexts are divided into splits, whose results the last program to finish merges in fixed
order (flash-decoding, Dao et al. 2023).

The item list is int32 and comes from the host, VERIFY_ITEM ints for each item: row (-1: none), first token, number of
tokens, how far after the row's position the first one is, split, largest number of splits. The host does not know
where the rows are, so the kernel finds out how many of the splits there are. Those of the same tokens are side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.attention.attention_rules import log2_cap, log2_scale, padded_head, within_head
from engine.kernels.attention.chunk_attention import attend_tile
from engine.kernels.attention.kv_quantization import scale_arguments
from engine.kernels.attention.merge_splits import merge_splits
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.layers.paged_attention import PLAIN, AttentionRule

VERIFY_ITEM = 8  # ints of an item


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """How contexts are read. `lanes`: queries of a matrix product, an item's tokens × heads of a group, padded.
    `tile_tokens`: positions read at once. `min_tiles`: tiles of the shortest split. `warps`, `stages`: Triton's.
    """

    lanes: int
    tile_tokens: int
    min_tiles: int = 2
    warps: int = 4
    stages: int = 2

    def max_queries(self, group: int) -> int:
        """Tokens of an item; `group` query heads read one kv head."""
        return self.lanes // group


@triton.jit
def verify_attention_kernel(
    qkv, k_cache, v_cache, items, positions, tables, out, partial_out, partial_stats, counters,
    table_stride, page_stride, token_stride, head_stride, scales, scale_stride, scale,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr,
    MIN_TILES: tl.constexpr, STAGES: tl.constexpr, ITEM: tl.constexpr, SCALED: tl.constexpr, DB: tl.constexpr,
    WINDOW: tl.constexpr, CAP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for each kv head and each item. Pointers: see `verify_attention`.

    H kv heads, each read by G query heads; LANES: see `VerifyConfig`; the rest as in `chunk_attention_kernel`.
    """
    head = tl.program_id(0)
    item = tl.program_id(1)
    grid_wait(PDL)
    launch_dependents(PDL)
    entry = items + item * ITEM
    row = tl.load(entry)
    if row >= 0:
        first = tl.load(entry + 1)
        count = tl.load(entry + 2)
        start = tl.load(positions + row) + tl.load(entry + 3)
        split = tl.load(entry + 4)
        end = start + count
        first_tile = 0
        if WINDOW > 0:
            first_tile = tl.maximum(start - WINDOW + 1, 0) // TILE
        tiles = tl.cdiv(end, TILE) - first_tile
        per = tl.maximum(tl.cdiv(tiles, tl.load(entry + 5)), MIN_TILES)
        num_splits = tl.cdiv(tiles, per)
        if split < num_splits:
            table = tables + row * table_stride
            lane = tl.arange(0, LANES)
            t = tl.arange(0, TILE)
            d = tl.arange(0, DB)
            query = lane // G
            is_live = query < count
            live = within_head(is_live[:, None], d[None, :], D, DB)
            token = (first + query).to(tl.int64)[:, None]
            q_head = (head * G + lane % G)[:, None]
            q = tl.load(qkv + token * ((G + 2) * H * D) + q_head * D + d[None, :], mask=live, other=0.0)
            m = tl.full([LANES], -1.0e30, tl.float32)
            denom = tl.zeros([LANES], tl.float32)
            acc = tl.zeros([LANES, DB], tl.float32)
            low = first_tile + split * per
            high = tl.minimum(low + per, tl.cdiv(end, TILE))
            masked = low  # from this tile on, some query does not see all of it
            if WINDOW == 0:
                masked = tl.maximum(low, tl.minimum(high, start // TILE))
            for tile in tl.range(low, masked, num_stages=STAGES):
                m, denom, acc = attend_tile(
                    q, k_cache, v_cache, scales, table, tile * TILE + t, end, start + query, head, page_stride,
                    token_stride, head_stride, scale_stride, scale, m, denom, acc,
                    D, PAGE, SCALED, False, DB, WINDOW, CAP,
                )  # fmt: skip
            for tile in tl.range(masked, high, num_stages=STAGES):
                m, denom, acc = attend_tile(
                    q, k_cache, v_cache, scales, table, tile * TILE + t, end, start + query, head, page_stride,
                    token_stride, head_stride, scale_stride, scale, m, denom, acc,
                    D, PAGE, SCALED, True, DB, WINDOW, CAP, True,
                )  # fmt: skip
            out_at = out + token * (G * H * D) + q_head * D + d[None, :]
            if num_splits == 1:
                tl.store(out_at, (acc / denom[:, None]).to(out.dtype.element_ty), mask=live)
            else:
                base = ((item - split) * H + head) * LANES + lane
                counter = counters + (item - split) * H + head
                merge_splits(
                    partial_out, partial_stats, counter, base, H * LANES, split, num_splits, m, denom, acc, is_live,
                    out_at, live, DB,
                )  # fmt: skip


def verify_attention(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    items: torch.Tensor,
    positions: torch.Tensor,
    tables: torch.Tensor,
    out: torch.Tensor,
    partial_out: torch.Tensor,
    partial_stats: torch.Tensor,
    counters: torch.Tensor,
    *,
    heads: int,
    config: VerifyConfig,
    scales: torch.Tensor | None = None,
    rule: AttentionRule = PLAIN,
    pdl: bool = False,
) -> None:
    """out [tokens, heads · D] = attention of the rows' new tokens over their pages, as `rule` says.

    `rotate_and_store` comes first. qkv [tokens, (heads + 2 · kv heads) · D], in the model's dtype. items int32
    [n, VERIFY_ITEM], of at most config.max_queries tokens each. positions int32 [rows]: the first new token's. Caches,
    scales and tables as in `decode_attention`. For the s items with several splits, which come first: partial_out
    float32 [≥ s · kv heads · lanes, DB]; partial_stats float32 [≥ s · kv heads · lanes, 2]; counters int32
    [≥ s · kv heads], zero before and after.
    """
    _, page_size, kv_heads, dim = k_cache.shape
    verify_attention_kernel[(kv_heads, items.shape[0])](
        qkv, k_cache, v_cache, items, positions, tables, out, partial_out, partial_stats, counters,
        tables.stride(0), k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        *scale_arguments(scales, out), log2_scale(rule, dim),
        H=kv_heads, G=heads // kv_heads, D=dim, PAGE=page_size, LANES=config.lanes, TILE=config.tile_tokens,
        MIN_TILES=config.min_tiles, STAGES=config.stages, ITEM=VERIFY_ITEM, SCALED=scales is not None,
        DB=padded_head(dim), WINDOW=rule.window or 0, CAP=log2_cap(rule), PDL=pdl,
        num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
