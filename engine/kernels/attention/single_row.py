"""Attention of a single row over its cached context: a kernel, and the function that `fused_decode.py` runs too.

Such attention is a chain of waits: query, keys, sums over splits, merge. So each program loads the first keys and
values of its split before the query exists, and finds the split from the row's position instead of a work list. It
knows nothing of products.
"""

# A kernel has no starred expressions, and its tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment, var-annotated"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.attention.attention_rules import (
    load_head,
    log2_cap,
    log2_scale,
    padded_head,
    soft_cap,
    store_head,
    within_head,
)
from engine.kernels.attention.decode_attention import online_softmax_update, rotate
from engine.kernels.attention.kv_quantization import bf16_bits, load_kv_scales, quantize_vectors, scale_arguments
from engine.kernels.attention.split_kv import SplitConfig, combine_splits
from engine.kernels.eight_bits import rounded_to
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.layers.paged_attention import PLAIN, AttentionRule


@triton.jit
def load_tile(
    k_cache, v_cache, scales, table, at, end, pos, kv_head, page_stride, token_stride, head_stride, scale_stride,
    D: tl.constexpr, PAGE: tl.constexpr, DB: tl.constexpr, WINDOW: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Keys and values [T, DB] of the positions `at` [T], their scales [T], and their mask.

    The mask: before `end`, and in the window of `pos`. Without SCALED the scales are placeholders.
    """
    d = tl.arange(0, DB)
    mask = at < end
    if WINDOW > 0:
        mask = mask & (at > pos - WINDOW)
    page_ids = tl.load(table + at // PAGE, mask=mask, other=0).to(tl.int64)
    base = page_ids * page_stride + (at % PAGE) * token_stride + kv_head * head_stride
    present = within_head(mask[:, None], d[None, :], D, DB)
    kt = tl.load(k_cache + base[:, None] + d[None, :], mask=present, other=0.0)
    vt = tl.load(v_cache + base[:, None] + d[None, :], mask=present, other=0.0)
    k_scale = mask
    v_scale = mask
    if SCALED:
        k_scale, v_scale = load_kv_scales(scales, page_ids, at, kv_head, mask, scale_stride, PAGE)
    return kt, vt, k_scale, v_scale, mask


@triton.jit
def attend_split(
    qkv, k_cache, v_cache, table, live, pos, head, split, cos, sin, out, value_weight, partial_out, partial_stats,
    partial_weight, counters, scales, page_stride, token_stride, head_stride, scale_stride, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, STAGES: tl.constexpr, MIN_TILES: tl.constexpr, DB: tl.constexpr, WINDOW: tl.constexpr,
    CAP: tl.constexpr, EARLY_TILES: tl.constexpr, HAS_VALUE: tl.constexpr, SCALED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Attend over one split of one query head. The first split stores the new token; the last to finish merges all.

    Pointers: see `single_row_attention` and `fused_decode_value_proj`. table: the row's page ids; live: whether there
    is a row; pos: its position; split: less than SPLITS, and one that the context does not need does nothing. `scale`
    is the scores' factor times log2(e).
    HQ query heads, HKV kv heads; D: head dim; DB: D padded; PAGE: page size; TILE: positions read at once; MIN_TILES:
    tiles of the shortest split; EARLY_TILES: tiles of a split read before the query exists; WINDOW: 0 for none; CAP:
    see `soft_cap`. HAS_VALUE: qkv has the new token's value, and `out` includes it; without it, its weight by head goes
    to `value_weight`, and `partial_weight` float32 [HQ] is scratch. SCALED: int8 caches with `scales`; it needs
    HAS_VALUE.
    """
    kv_head = head // (HQ // HKV)
    tiles = tl.cdiv(pos, TILE)
    if WINDOW > 0:
        before = tl.maximum(pos - WINDOW + 1, 0) // TILE  # tiles that lie wholly before the window
        tiles -= before
    tiles_per_split = tl.maximum(tl.cdiv(tiles, tl.maximum(tl.minimum(tl.cdiv(tiles, MIN_TILES), SPLITS), 1)), 1)
    num_splits = tl.maximum(tl.cdiv(tiles, tiles_per_split), 1)
    if split < num_splits:
        first_tile = split * tiles_per_split
        end_tile = tl.minimum(first_tile + tiles_per_split, tiles)
        if WINDOW > 0:
            first_tile += before
            end_tile += before
        d = tl.arange(0, DB)
        pair = tl.arange(0, DB // 2)
        t = tl.arange(0, TILE)
        # These keys and values are of earlier steps, so they can be loaded while the query is computed.
        early = ()
        for e in tl.static_range(EARLY_TILES):
            one = load_tile(
                k_cache, v_cache, scales, table, (first_tile + e) * TILE + t, tl.minimum(pos, end_tile * TILE), pos,
                kv_head, page_stride, token_stride, head_stride, scale_stride, D, PAGE, DB, WINDOW, SCALED,
            )  # fmt: skip
            early = early + (one,)
        c = load_head(cos + pos * (D // 2) + pair, pair, D // 2, DB // 2)
        s = load_head(sin + pos * (D // 2) + pair, pair, D // 2, DB // 2)
        new_page = tl.load(table + pos // PAGE, mask=live, other=0).to(tl.int64)
        grid_wait(PDL)
        launch_dependents(PDL)
        # All loads come first, since none moves before the barriers by which warps exchange the rotated query.
        k_new = qkv + (HQ + kv_head) * D
        q_even = load_head(qkv + head * D + 2 * pair, pair, D // 2, DB // 2).to(tl.float32)
        q_odd = load_head(qkv + head * D + 2 * pair + 1, pair, D // 2, DB // 2).to(tl.float32)
        k_even = load_head(k_new + 2 * pair, pair, D // 2, DB // 2).to(tl.float32)
        k_odd = load_head(k_new + 2 * pair + 1, pair, D // 2, DB // 2).to(tl.float32)
        v = load_head(qkv + (HQ + HKV + kv_head) * D + d, d, D, DB) if HAS_VALUE else k_even
        q_even, q_odd = rotate(q_even, q_odd, c, s)
        q = tl.interleave(q_even, q_odd).to(qkv.dtype.element_ty).to(tl.float32)
        k_even, k_odd = rotate(k_even, k_odd, c, s)
        k = tl.interleave(k_even, k_odd).to(qkv.dtype.element_ty)
        k_scale = 1.0
        v_scale = 1.0
        if SCALED:
            k_codes, k_scale = quantize_vectors(k.to(tl.float32), 0)
            v_codes, v_scale = quantize_vectors(v.to(tl.float32), 0)
            stored_k = k_codes.to(k_cache.dtype.element_ty)
            stored_v = v_codes.to(v_cache.dtype.element_ty)
            k = k_codes * k_scale
            v = v_codes * v_scale
        else:
            k = rounded_to(k, k_cache.dtype.element_ty)
            v = rounded_to(v, v_cache.dtype.element_ty) if HAS_VALUE else v
            stored_k = k
            stored_v = v
        has_new = split == 0  # the new token belongs to the first split
        if live & has_new & (head % (HQ // HKV) == 0):
            new_at = new_page * page_stride + (pos % PAGE) * token_stride + kv_head * head_stride
            store_head(k_cache + new_at + d, stored_k, d, D, DB)
            if HAS_VALUE:
                store_head(v_cache + new_at + d, stored_v, d, D, DB)
            if SCALED:
                both = (bf16_bits(k_scale) & 0xFFFF) | (bf16_bits(v_scale) << 16)
                tl.store(scales + new_page * scale_stride + kv_head * PAGE + pos % PAGE, both)
        new_score = tl.where(has_new, soft_cap(tl.sum(q * k.to(tl.float32), 0) * scale, CAP), -1.0e30)
        m = tl.full([TILE], -1.0e30, tl.float32)
        denom = tl.zeros([TILE], tl.float32)
        acc = tl.zeros([TILE, DB], tl.float32)
        scaled_q = (q * scale)[None, :]
        for e in tl.static_range(EARLY_TILES):
            kt, vt, ks, vs, mask = early[e]
            m, denom, acc = online_softmax_update(kt, vt, ks, vs, mask, scaled_q, m, denom, acc, SCALED, CAP)
        for tile in tl.range(first_tile + EARLY_TILES, end_tile, num_stages=STAGES):
            kt, vt, ks, vs, mask = load_tile(
                k_cache, v_cache, scales, table, tile * TILE + t, pos, pos, kv_head, page_stride, token_stride,
                head_stride, scale_stride, D, PAGE, DB, WINDOW, SCALED,
            )  # fmt: skip
            m, denom, acc = online_softmax_update(kt, vt, ks, vs, mask, scaled_q, m, denom, acc, SCALED, CAP)
        top = tl.maximum(tl.max(m, 0), new_score)
        lane_scale = tl.exp2(m - top)
        p_new = tl.where(has_new, tl.exp2(new_score - top), 0.0)
        total = tl.sum(denom * lane_scale, 0) + p_new
        o = tl.sum(acc * lane_scale[:, None], 0)
        if HAS_VALUE:
            o += p_new * v.to(tl.float32)
        if num_splits == 1:
            store_head(out + head * D + d, (o / total).to(out.dtype.element_ty), d, D, DB)
            if not HAS_VALUE:
                tl.store(value_weight + head, p_new / total)
        else:
            split_at = head * SPLITS + split
            tl.store(partial_out + split_at * DB + d, o)
            tl.store(partial_stats + split_at * 2, top)
            tl.store(partial_stats + split_at * 2 + 1, total)
            if has_new and not HAS_VALUE:
                tl.store(partial_weight + head, p_new)
            tl.debug_barrier()
            arrived = tl.atomic_add(counters + head, 1, sem="acq_rel")
            if arrived == num_splits - 1:
                tl.store(counters + head, 0)
                p_first = tl.load(partial_weight + head, cache_modifier=".cg")  # in flight beside the splits' loads
                y, mass, split_scale = combine_splits(partial_out, partial_stats, head, num_splits, DB, SPLITS)
                store_head(out + head * D + d, (y / mass).to(out.dtype.element_ty), d, D, DB)
                if not HAS_VALUE:
                    p_first = p_first * tl.sum(tl.where(tl.arange(0, SPLITS) == 0, split_scale, 0.0), 0)
                    tl.store(value_weight + head, p_first / mass)


@triton.jit
def single_row_attention_kernel(
    qkv, k_cache, v_cache, slot_rows, positions, tables, cos, sin, out, partial_out, partial_stats, counters, scales,
    page_stride, token_stride, head_stride, scale_stride, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, TABLE: tl.constexpr,
    TILE: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr, MIN_TILES: tl.constexpr, DB: tl.constexpr,
    WINDOW: tl.constexpr, CAP: tl.constexpr, EARLY_TILES: tl.constexpr, SCALED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """HQ · SPLITS programs, one split of one head each. Pointers: see `single_row_attention`; TABLE: tables' stride."""
    row = tl.load(slot_rows)
    live = row >= 0
    row = tl.where(live, row, 0)
    pos = tl.where(live, tl.load(positions + row), 0)
    attend_split(
        qkv, k_cache, v_cache, tables + row * TABLE, live, pos, tl.program_id(0), tl.program_id(1), cos, sin, out, out,
        partial_out, partial_stats, partial_stats, counters, scales, page_stride, token_stride, head_stride,
        scale_stride, scale,
        HQ, HKV, D, PAGE, TILE, SPLITS, STAGES, MIN_TILES, DB, WINDOW, CAP, EARLY_TILES, True, SCALED, PDL,
    )  # fmt: skip


def single_row_attention(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_rows: torch.Tensor,
    positions: torch.Tensor,
    tables: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
    partial_out: torch.Tensor,
    partial_stats: torch.Tensor,
    counters: torch.Tensor,
    *,
    heads: int,
    config: SplitConfig,
    scales: torch.Tensor | None = None,
    rule: AttentionRule = PLAIN,
    pdl: bool = False,
) -> None:
    """out [1, heads · D] = attention of one new token over its context; also stores its key and value.

    slot_rows int32 [1]: the row, -1 for none. partial_out float32 [heads · config.target_splits, DB], partial_stats
    float32 [heads · config.target_splits, 2]: scratch; counters int32 [heads], zero before and after. The rest as in
    `decode_attention`. The context gets up to config.target_splits splits of at least config.min_tiles tiles.
    """
    _, page_size, kv_heads, dim = k_cache.shape
    cache_scales, scale_stride = scale_arguments(scales, out)
    single_row_attention_kernel[(heads, config.target_splits)](
        qkv, k_cache, v_cache, slot_rows, positions, tables, cos, sin, out, partial_out, partial_stats, counters,
        cache_scales, k_cache.stride(0), k_cache.stride(1), k_cache.stride(2), scale_stride, log2_scale(rule, dim),
        HQ=heads, HKV=kv_heads, D=dim, PAGE=page_size, TABLE=tables.stride(0), TILE=config.tile_tokens,
        SPLITS=config.target_splits, STAGES=config.stages, MIN_TILES=config.min_tiles, DB=padded_head(dim),
        WINDOW=rule.window or 0, CAP=log2_cap(rule), EARLY_TILES=config.early_tiles,
        SCALED=scales is not None, PDL=pdl, num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
