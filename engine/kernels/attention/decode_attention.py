"""Attention of one new token per slot over its paged context, including the new token's RoPE and cache write.

A slot is the place of one decoding row in a step. The kernel reads the rows' positions and page tables on the device,
so a step needs no data from the host. It is a flash-decoding kernel (Dao et al. 2023) with an online softmax (Milakov
& Gimelshein 2018) within a split: `split_kv.py` divides the contexts, and the last program to finish a head merges its
splits in fixed order. Rows that share pages (a guild's persona) run at the same time, so shared pages come from the L2
cache; where that costs too much, `prefix_attention.py` has read them once for all, and its result is merged here.
"""

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
from engine.kernels.attention.kv_quantization import (
    bf16_bits,
    is_packed,
    load_kv_scales,
    quantize_vectors,
    scale_arguments,
)
from engine.kernels.attention.prefix_work import MAX_PARTS, PrefixWork
from engine.kernels.attention.split_kv import (
    HEADER,
    ITEM,
    MAX_SPLITS,
    SplitConfig,
    combine_group_splits,
    combine_splits,
)
from engine.kernels.eight_bits import rounded_to, unpack_bytes
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.layers.paged_attention import PLAIN, AttentionRule


@triton.jit
def rotate(even, odd, cos, sin):
    """Rotary embedding (RoPE) of interleaved pairs: (even, odd) rotated by the angle."""
    return even * cos - odd * sin, even * sin + odd * cos


@triton.jit
def online_softmax_update(
    k, v, k_scale, v_scale, mask, q, m, denom, acc, SCALED: tl.constexpr, CAP: tl.constexpr
):  # fmt: skip
    """Add one tile of T positions to the running softmax of a single query, without a matrix product.

    k, v [T, D] and k_scale, v_scale [T], as stored; mask [T]; q float32 [1, D], scaled. Each of the T lanes has its own
    maximum m [T], sum denom [T] and output acc [T, D]; returns the three. The caller merges the lanes at the end.
    """
    k = k.to(tl.float32)
    score = tl.sum(k * q, 1)
    if SCALED:
        score = score * k_scale
    score = soft_cap(score, CAP)
    score = tl.where(mask, score, -1.0e30)
    m_new = tl.maximum(m, score)
    alpha = tl.exp2(m - m_new)
    p = tl.where(mask, tl.exp2(score - m_new), 0.0)
    weight = p
    if SCALED:
        weight = p * v_scale
    return m_new, denom * alpha + p, acc * alpha[:, None] + weight[:, None] * v.to(tl.float32)


@triton.jit
def online_softmax_weights(score, mask, m, denom, MASKED: tl.constexpr):
    """Add one tile of scores [Q, T] to the running maximum m and sum denom of Q queries, both [Q].

    Returns (m, denom, alpha, p): the new maximum and sum, the factor for the earlier sums [Q], and the tile's weights
    exp2(score − m) [Q, T]. With MASKED the weights of positions outside mask [T] are 0, whatever their score.
    """
    m_new = tl.maximum(m, tl.max(score, 1))
    alpha = tl.exp2(m - m_new)
    p = tl.exp2(score - m_new[:, None])
    if MASKED:
        p = tl.where(mask[None, :], p, 0.0)
    return m_new, denom * alpha + tl.sum(p, 1), alpha, p


@triton.jit
def decode_attention_kernel(
    qkv, k_cache, v_cache, work, slot_rows, positions, tables, cos, sin, out, partial_out, partial_stats, counters,
    prefixes, prefix_out, prefix_stats, table_stride, page_stride, token_stride, head_stride, scales, scale_stride,
    scale, one,
    H: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, STAGES: tl.constexpr, HEADER: tl.constexpr, ITEM: tl.constexpr, SCALED: tl.constexpr,
    DB: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, PREFIX: tl.constexpr, PARTS: tl.constexpr,
    PACKED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for each kv head and each item of the work list. Pointers: see `decode_attention`.

    H kv heads, each read by G query heads; GP: G padded to the smallest tl.dot, or 1: no tl.dot; D: head dim;
    PAGE: page size; TILE: positions read at once; SPLITS: MAX_SPLITS; SCALED: int8 caches with `scales`; DB: D
    padded; WINDOW: 0 for none; CAP: see `soft_cap`; PREFIX: some slots share prefixes, of up to PARTS parts; PACKED:
    caches of 8 bits, read two elements at a time.
    `scale` is the scores' factor times log2(e), and `one` is 1.0.
    """
    head = tl.program_id(0)
    item = tl.program_id(1)  # the slower grid index, so that programs without an item start last
    if item >= tl.load(work):
        return
    entry = work + HEADER + item * ITEM
    slot = tl.load(entry)
    split = tl.load(entry + 1)
    tiles_per_split = tl.load(entry + 2)
    num_splits = tl.load(entry + 3)
    row = tl.load(slot_rows + slot)
    live_slot = row >= 0
    row = tl.where(live_slot, row, 0)
    pos = tl.where(live_slot, tl.load(positions + row), 0)
    table = tables + row * table_stride
    d = tl.arange(0, DB)
    pair = tl.arange(0, DB // 2)
    t = tl.arange(0, TILE)
    first_tile = split * tiles_per_split
    if WINDOW > 0:
        first_tile += tl.maximum(pos - WINDOW + 1, 0) // TILE
    if PREFIX:
        first_tile += tl.load(prefixes + slot * 2) // TILE
    end_tile = tl.minimum(first_tile + tiles_per_split, tl.cdiv(pos, TILE))
    c = load_head(cos + pos * (D // 2) + pair, pair, D // 2, DB // 2)
    s = load_head(sin + pos * (D // 2) + pair, pair, D // 2, DB // 2)
    has_new = split == 0  # the new token itself belongs to the first split
    new_page = tl.load(table + pos // PAGE, mask=live_slot & has_new, other=0).to(tl.int64)
    grid_wait(PDL)
    launch_dependents(PDL)
    # All loads come first, since none may be moved before the barriers by which warps exchange the rotated query.
    new = qkv + slot.to(tl.int64) * ((G + 2) * H * D)
    g = tl.arange(0, GP)
    q_heads = new + (head * G + g)[:, None] * D
    is_query = within_head(g[:, None] < G, pair[None, :], D // 2, DB // 2)
    q_even = tl.load(q_heads + 2 * pair[None, :], mask=is_query, other=0.0).to(tl.float32)
    q_odd = tl.load(q_heads + 2 * pair[None, :] + 1, mask=is_query, other=0.0).to(tl.float32)
    k_new = new + (G * H + head) * D
    k_even = load_head(k_new + 2 * pair, pair, D // 2, DB // 2).to(tl.float32)
    k_odd = load_head(k_new + 2 * pair + 1, pair, D // 2, DB // 2).to(tl.float32)
    v = load_head(new + (G * H + H + head) * D + d, d, D, DB)
    q_even, q_odd = rotate(q_even, q_odd, c[None, :], s[None, :])
    # Plain torch rounds the rotated query and key to the model's dtype; so do we, and scale in float32 afterwards.
    q = tl.interleave(q_even, q_odd).to(qkv.dtype.element_ty)
    k_even, k_odd = rotate(k_even, k_odd, c, s)
    k = tl.interleave(k_even, k_odd).to(qkv.dtype.element_ty)
    if SCALED:
        k_codes, k_scale_new = quantize_vectors(k.to(tl.float32), 0)
        v_codes, v_scale_new = quantize_vectors(v.to(tl.float32), 0)
        stored_k = k_codes.to(k_cache.dtype.element_ty)
        stored_v = v_codes.to(v_cache.dtype.element_ty)
        k = k_codes * k_scale_new
        v = v_codes * v_scale_new
    else:
        stored_k = rounded_to(k, k_cache.dtype.element_ty)
        stored_v = rounded_to(v, v_cache.dtype.element_ty)
        k = stored_k
        v = stored_v
    if live_slot & has_new:
        new_at = new_page * page_stride + (pos % PAGE) * token_stride + head * head_stride + d
        store_head(k_cache + new_at, stored_k, d, D, DB)
        store_head(v_cache + new_at, stored_v, d, D, DB)
        if SCALED:
            both = (bf16_bits(k_scale_new) & 0xFFFF) | (bf16_bits(v_scale_new) << 16)
            tl.store(scales + new_page * scale_stride + head * PAGE + pos % PAGE, both)
    q32 = q.to(tl.float32)
    new_score = tl.where(has_new, soft_cap(tl.sum(q32 * k.to(tl.float32)[None, :], 1) * scale, CAP), -1.0e30)
    if GP == 1:
        # One query: no matrix product. Each lane of a tile has its own softmax; the lanes are merged after the loop.
        m = tl.full([TILE], -1.0e30, tl.float32)
        denom = tl.zeros([TILE], tl.float32)
        acc = tl.zeros([TILE, DB], tl.float32)
        scaled_q = q32 * scale
        for tile in tl.range(first_tile, end_tile, num_stages=STAGES):
            at = tile * TILE + t
            mask = at < pos
            if WINDOW > 0:
                mask = mask & (at > pos - WINDOW)
            page_ids = tl.load(table + at // PAGE, mask=mask, other=0).to(tl.int64)
            base = page_ids * page_stride + (at % PAGE) * token_stride + head * head_stride
            present = within_head(mask[:, None], d[None, :], D, DB)
            kt = tl.load(k_cache + base[:, None] + d[None, :], mask=present, other=0.0)
            vt = tl.load(v_cache + base[:, None] + d[None, :], mask=present, other=0.0)
            ks = mask  # unused without scales
            vs = mask
            if SCALED:
                ks, vs = load_kv_scales(scales, page_ids, at, head, mask, scale_stride, PAGE)
            m, denom, acc = online_softmax_update(kt, vt, ks, vs, mask, scaled_q, m, denom, acc, SCALED, CAP)
        top = tl.maximum(tl.max(m, 0), tl.max(new_score, 0))
        lane_scale = tl.exp2(m - top)
        p_new = tl.where(has_new, tl.exp2(new_score - top), 0.0)  # [GP] with GP == 1
        total = tl.sum(denom * lane_scale, 0) + p_new
        o = tl.sum(acc * lane_scale[:, None], 0)[None, :] + p_new[:, None] * v.to(tl.float32)[None, :]
        m_all = top + tl.zeros([GP], tl.float32)
    elif PACKED:
        # The even and the odd elements of heads have a sum of their own: those of a word of 16 bits of the caches.
        word = tl.arange(0, DB // 2)
        k_words = k_cache.to(tl.pointer_type(tl.int16))
        v_words = v_cache.to(tl.pointer_type(tl.int16))
        FP8: tl.constexpr = not SCALED
        q_even = q_even.to(q.dtype)
        q_odd = q_odd.to(q.dtype)
        v_even, v_odd = tl.split(tl.reshape(v.to(tl.float32), [DB // 2, 2]))
        m_all = new_score
        total = tl.where(has_new, tl.full([GP], 1.0, tl.float32), tl.zeros([GP], tl.float32))
        o_even = tl.where(has_new, v_even[None, :] + tl.zeros([GP, DB // 2], tl.float32), 0.0)
        o_odd = tl.where(has_new, v_odd[None, :] + tl.zeros([GP, DB // 2], tl.float32), 0.0)
        for tile in tl.range(first_tile, end_tile, num_stages=STAGES):
            at = tile * TILE + t
            mask = at < pos
            if WINDOW > 0:
                mask = mask & (at > pos - WINDOW)
            page_ids = tl.load(table + at // PAGE, mask=mask, other=0).to(tl.int64)
            base = page_ids * (page_stride // 2) + (at % PAGE) * (token_stride // 2) + head * (head_stride // 2)
            k_present = within_head(mask[None, :], word[:, None], D // 2, DB // 2)
            v_present = within_head(mask[:, None], word[None, :], D // 2, DB // 2)
            kt = tl.load(k_words + base[None, :] + word[:, None], mask=k_present, other=0)
            vt = tl.load(v_words + base[:, None] + word[None, :], mask=v_present, other=0)
            score = tl.dot(q_even, unpack_bytes(kt, 0, FP8, q.dtype), input_precision="ieee")
            score = tl.dot(q_odd, unpack_bytes(kt, 1, FP8, q.dtype), score, input_precision="ieee") * scale
            if SCALED:
                ks, vs = load_kv_scales(scales, page_ids, at, head, mask, scale_stride, PAGE)
                score = score * ks[None, :]
            score = soft_cap(score, CAP)
            score = tl.where(mask[None, :], score, -1.0e30)
            m_all, total, alpha, p = online_softmax_weights(score, mask, m_all, total, True)
            if SCALED:
                p = p * vs[None, :]
            p = p.to(q.dtype)  # `one`: see below
            o_even = (
                o_even * alpha[:, None] + tl.dot(p, unpack_bytes(vt, 0, FP8, q.dtype), input_precision="ieee") * one
            )
            o_odd = o_odd * alpha[:, None] + tl.dot(p, unpack_bytes(vt, 1, FP8, q.dtype), input_precision="ieee") * one
        o = tl.interleave(o_even, o_odd)
    else:
        m_all = new_score
        total = tl.where(has_new, tl.full([GP], 1.0, tl.float32), tl.zeros([GP], tl.float32))
        o = tl.where(has_new, v.to(tl.float32)[None, :] + tl.zeros([GP, DB], tl.float32), 0.0)
        for tile in tl.range(first_tile, end_tile, num_stages=STAGES):
            at = tile * TILE + t
            mask = at < pos
            if WINDOW > 0:
                mask = mask & (at > pos - WINDOW)
            page_ids = tl.load(table + at // PAGE, mask=mask, other=0).to(tl.int64)
            base = page_ids * page_stride + (at % PAGE) * token_stride + head * head_stride
            k_present = within_head(mask[None, :], d[:, None], D, DB)
            v_present = within_head(mask[:, None], d[None, :], D, DB)
            kt = tl.load(k_cache + base[None, :] + d[:, None], mask=k_present, other=0.0)
            vt = tl.load(v_cache + base[:, None] + d[None, :], mask=v_present, other=0.0)
            score = tl.dot(q, kt.to(q.dtype), input_precision="ieee") * scale
            if SCALED:
                ks, vs = load_kv_scales(scales, page_ids, at, head, mask, scale_stride, PAGE)
                score = score * ks[None, :]
            score = soft_cap(score, CAP)
            score = tl.where(mask[None, :], score, -1.0e30)
            m_all, total, alpha, p = online_softmax_weights(score, mask, m_all, total, True)
            if SCALED:
                p = p * vs[None, :]
            # The compiler does not know that `one` is 1, so it cannot fuse the product into the sum. If the tensor
            # core added to `o`, each tile's product would wait for the rescaled sum of the tiles before it.
            o = o * alpha[:, None] + tl.dot(p.to(q.dtype), vt.to(q.dtype), input_precision="ieee") * one
    heads_at = slot * (H * G) + head * G + g
    live = g < G
    if PREFIX:
        # The first split has the shared prefix too, which the kernel before has read.
        parts = tl.where(has_new, tl.load(prefixes + slot * 2 + 1), 0)
        if GP == 1:
            part = tl.arange(0, PARTS)
            exists = part < parts
            part_at = (slot * (H * G) + head) * PARTS + part
            part_max = tl.load(prefix_stats + part_at * 2, mask=exists, other=-1.0e30, cache_modifier=".cg")
            part_sum = tl.load(prefix_stats + part_at * 2 + 1, mask=exists, other=0.0, cache_modifier=".cg")
            part_out = tl.load(
                prefix_out + part_at[:, None] * DB + d[None, :], mask=exists[:, None], other=0.0, cache_modifier=".cg"
            )
            best = tl.maximum(tl.max(m_all, 0), tl.max(part_max, 0))
            own_scale = tl.exp2(m_all - best)
            part_scale = tl.exp2(part_max - best)
            total = total * own_scale + tl.sum(part_sum * part_scale, 0)
            o = o * own_scale[:, None] + tl.sum(part_out * part_scale[:, None], 0)[None, :]
            m_all = best + tl.zeros([GP], tl.float32)
        else:
            for part in tl.range(0, parts, num_stages=STAGES):
                part_at = heads_at * PARTS + part
                part_max = tl.load(prefix_stats + part_at * 2, mask=live, other=-1.0e30, cache_modifier=".cg")
                part_sum = tl.load(prefix_stats + part_at * 2 + 1, mask=live, other=0.0, cache_modifier=".cg")
                part_out = tl.load(
                    prefix_out + part_at[:, None] * DB + d[None, :], mask=live[:, None], other=0.0, cache_modifier=".cg"
                )
                best = tl.maximum(m_all, part_max)
                own_scale = tl.exp2(m_all - best)
                part_scale = tl.exp2(part_max - best)
                total = total * own_scale + part_sum * part_scale
                o = o * own_scale[:, None] + part_out * part_scale[:, None]
                m_all = best
    is_out = within_head(live[:, None], d[None, :], D, DB)
    if num_splits == 1:
        y = o / total[:, None]
        tl.store(out + heads_at[:, None] * D + d[None, :], y.to(out.dtype.element_ty), mask=is_out)
    else:
        split_at = heads_at * SPLITS + split
        tl.store(partial_out + split_at[:, None] * DB + d[None, :], o, mask=live[:, None])
        tl.store(partial_stats + split_at * 2, m_all, mask=live)
        tl.store(partial_stats + split_at * 2 + 1, total, mask=live)
        tl.debug_barrier()
        arrived = tl.atomic_add(counters + slot * H + head, 1, sem="acq_rel")
        if arrived == num_splits - 1:
            tl.store(counters + slot * H + head, 0)
            if GP == 1:
                y, mass, _ = combine_splits(partial_out, partial_stats, slot * (H * G) + head, num_splits, DB, SPLITS)
                y = y / mass
                store_head(out + (slot * (H * G) + head) * D + d, y.to(out.dtype.element_ty), d, D, DB)
            else:
                y, mass = combine_group_splits(partial_out, partial_stats, heads_at, live, num_splits, GP, DB, SPLITS)
                y = y / tl.where(live, mass, 1.0)[:, None]
                tl.store(out + heads_at[:, None] * D + d[None, :], y.to(out.dtype.element_ty), mask=is_out)


def decode_attention(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    work: torch.Tensor,
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
    prefix: PrefixWork | None = None,
    pdl: bool = False,
) -> None:
    """out [slots, heads · D] = attention of the slots' new tokens over their contexts; also stores their keys, values.

    qkv [slots, (heads + 2 · kv heads) · D], before RoPE, in the model's dtype. k_cache, v_cache
    [pages, page size, kv heads, D], any strides with D contiguous, in the model's dtype, fp8, or int8 with the `scales`
    of `kv_quantization.py`. slot_rows int32 [slots]: each slot's row, -1 for none. positions int32 [rows]: the new
    token's position. tables int32 [rows, ≥ pages of a row]: page ids. cos, sin float32 [positions, D / 2]. work comes
    from `split_kv` with the same slots, config, window and prefixes; it is read before `grid_wait`, so another kernel
    must run between the two. `prefix`: what `prefix_attention` has just read, for layers without a window. partial_out
    float32 [slots · heads · MAX_SPLITS, DB]; partial_stats float32 [slots · heads · MAX_SPLITS, 2]; counters int32
    [slots · kv heads], zero before and after.
    """
    _, page_size, kv_heads, dim = k_cache.shape
    group = heads // kv_heads
    decode_attention_kernel[(kv_heads, config.max_work_items(slot_rows.shape[0]))](
        qkv, k_cache, v_cache, work, slot_rows, positions, tables, cos, sin, out, partial_out, partial_stats, counters,
        *((out,) * 3 if prefix is None else (prefix.slots, prefix.partial_out, prefix.partial_stats)),
        tables.stride(0), k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        *scale_arguments(scales, out), log2_scale(rule, dim), 1.0,
        H=kv_heads, G=group, GP=config.lanes or (1 if group == 1 else max(16, triton.next_power_of_2(group))), D=dim,
        PAGE=page_size, TILE=config.tile_tokens, SPLITS=MAX_SPLITS, STAGES=config.stages, HEADER=HEADER, ITEM=ITEM,
        SCALED=scales is not None, DB=padded_head(dim), WINDOW=rule.window or 0, CAP=log2_cap(rule),
        PREFIX=prefix is not None, PARTS=MAX_PARTS, PACKED=is_packed(k_cache),
        PDL=pdl, num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
