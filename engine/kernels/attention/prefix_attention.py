"""Attention of several rows' new tokens over the prefix that they share: its keys and values are read once for all.

The queries of all members, with all query heads of a kv head, make one matrix; so a tile of the prefix is one matrix
product, where each row alone would read the tile again. It comes before `decode_attention`, which merges the results
into those of each row's own context (as in Hydragen, Juravsky et al. 2024).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.attention.attention_rules import log2_cap, log2_scale, padded_head, within_head
from engine.kernels.attention.chunk_attention import attend_tile
from engine.kernels.attention.decode_attention import rotate
from engine.kernels.attention.kv_quantization import scale_arguments
from engine.kernels.attention.prefix_work import MAX_PARTS, PREFIX_HEADER, PREFIX_ITEM, PrefixConfig, PrefixWork
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.layers.paged_attention import PLAIN, AttentionRule


@triton.jit
def prefix_attention_kernel(
    qkv, k_cache, v_cache, items, members, slot_rows, positions, tables, cos, sin, partial_out, partial_stats,
    table_stride, page_stride, token_stride, head_stride, scales, scale_stride, scale,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    PARTS: tl.constexpr, STAGES: tl.constexpr, HEADER: tl.constexpr, ITEM: tl.constexpr, SCALED: tl.constexpr,
    DB: tl.constexpr, CAP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for each kv head and each item. Pointers: see `prefix_attention`.

    H kv heads, each read by G query heads; BLOCK: lanes, each one query head of one member; TILE: positions read at
    once, of which every part has a whole number; PARTS: MAX_PARTS; the rest as in `decode_attention_kernel`.
    """
    head = tl.program_id(0)
    item = tl.program_id(1)
    if item >= tl.load(items):
        if item == 0:
            grid_wait(PDL)  # one program must wait for the kernel before (see pdl.py)
        return
    entry = items + HEADER + item * ITEM
    first = tl.load(entry)
    count = tl.load(entry + 1)
    start = tl.load(entry + 2)
    end = tl.load(entry + 3)
    part = tl.load(entry + 4)
    lane = tl.arange(0, BLOCK)
    member = lane // G
    live = member < count
    slot = tl.load(members + first + member, mask=live, other=0).to(tl.int64)
    row = tl.load(slot_rows + slot, mask=live, other=0)
    pos = tl.load(positions + row, mask=live, other=0)
    # All members have the same pages here; those of the first are read.
    table = tables + tl.load(slot_rows + tl.load(members + first)) * table_stride
    pair = tl.arange(0, DB // 2)
    t = tl.arange(0, TILE)
    d = tl.arange(0, DB)
    is_query = within_head(live[:, None], pair[None, :], D // 2, DB // 2)
    c = tl.load(cos + pos[:, None] * (D // 2) + pair[None, :], mask=is_query, other=0.0)
    s = tl.load(sin + pos[:, None] * (D // 2) + pair[None, :], mask=is_query, other=0.0)
    grid_wait(PDL)
    launch_dependents(PDL)
    q_at = qkv + (slot * ((G + 2) * H) + head * G + lane % G)[:, None] * D + 2 * pair[None, :]
    q_even = tl.load(q_at, mask=is_query, other=0.0).to(tl.float32)
    q_odd = tl.load(q_at + 1, mask=is_query, other=0.0).to(tl.float32)
    q_even, q_odd = rotate(q_even, q_odd, c, s)
    q = tl.interleave(q_even, q_odd).to(qkv.dtype.element_ty)
    m = tl.full([BLOCK], -1.0e30, tl.float32)
    denom = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, DB], tl.float32)
    for tile in tl.range(start // TILE, end // TILE, num_stages=STAGES):
        m, denom, acc = attend_tile(
            q, k_cache, v_cache, scales, table, tile * TILE + t, end, pos, head, page_stride, token_stride, head_stride,
            scale_stride, scale, m, denom, acc, D, PAGE, SCALED, False, DB, 0, CAP,
        )  # fmt: skip
    part_at = (slot * (H * G) + head * G + lane % G) * PARTS + part
    tl.store(partial_out + part_at[:, None] * DB + d[None, :], acc, mask=live[:, None])
    tl.store(partial_stats + part_at * 2, m, mask=live)
    tl.store(partial_stats + part_at * 2 + 1, denom, mask=live)


def prefix_attention(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    work: PrefixWork,
    slot_rows: torch.Tensor,
    positions: torch.Tensor,
    tables: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    heads: int,
    config: PrefixConfig,
    scales: torch.Tensor | None = None,
    rule: AttentionRule = PLAIN,
    pdl: bool = False,
) -> None:
    """Fill `work`'s partial results: attention of the slots' new tokens over the prefixes that they share.

    For layers without a window. `decode_attention` with the same work comes next. No item has more members than
    config.max_members, and its positions are whole tiles. The rest as in `decode_attention`.
    """
    _, page_size, kv_heads, dim = k_cache.shape
    num_items = (work.items.shape[0] - PREFIX_HEADER) // PREFIX_ITEM
    prefix_attention_kernel[(kv_heads, num_items)](
        qkv, k_cache, v_cache, work.items, work.members, slot_rows, positions, tables, cos, sin, work.partial_out,
        work.partial_stats, tables.stride(0), k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        *scale_arguments(scales, qkv), log2_scale(rule, dim),
        H=kv_heads, G=heads // kv_heads, D=dim, PAGE=page_size, BLOCK=config.block, TILE=config.tile_tokens,
        PARTS=MAX_PARTS, STAGES=config.stages, HEADER=PREFIX_HEADER, ITEM=PREFIX_ITEM, SCALED=scales is not None,
        DB=padded_head(dim), CAP=log2_cap(rule), PDL=pdl, num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
