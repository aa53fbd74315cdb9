"""Attention of prefill chunks over their paged contexts, and the RoPE and cache write that come before it.

The tokens of all chunks of a step are concatenated. A block list says which tokens belong to which row, so one
launch serves any mixture of requests. It is flash attention: a block's queries pass over the row's positions up to
themselves, tile by tile, with an online softmax (Milakov & Gimelshein 2018). Where the blocks alone are too few for the
device, several programs share a block's positions.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from engine.kernels.attention.attention_rules import load_head, log2_cap, log2_scale, padded_head, soft_cap, within_head
from engine.kernels.attention.decode_attention import online_softmax_weights, rotate
from engine.kernels.attention.kv_quantization import (
    bf16_bits,
    load_kv_scales,
    quantize_vectors,
    scale_arguments,
)
from engine.kernels.attention.merge_splits import merge_splits
from engine.kernels.eight_bits import rounded_to
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.layers.paged_attention import PLAIN, AttentionRule

QUERY_BLOCK: Final = 6  # ints of an entry of the block list


@triton.jit
def rotate_and_store_kernel(
    qkv, k_cache, v_cache, token_rows, token_positions, tables, cos, sin,
    table_stride, page_stride, token_stride, head_stride, scales, scale_stride,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, HB: tl.constexpr, SCALED: tl.constexpr,
    DB: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token per program: rotate its queries in place, and store its rotated keys and its values in the caches.

    Pointers: see `rotate_and_store`; scales are viewed as int16, key's and value's interleaved. HQ query heads, HKV kv
    heads, HB heads at a time; D: head dim; DB: D padded; PAGE: page size; SCALED: int8 caches.
    """
    token = tl.program_id(0)
    grid_wait(PDL)
    launch_dependents(PDL)
    row = tl.load(token_rows + token)
    if row >= 0:
        pos = tl.load(token_positions + token)
        pair = tl.arange(0, DB // 2)
        c = load_head(cos + pos * (D // 2) + pair, pair, D // 2, DB // 2)[None, :]
        s = load_head(sin + pos * (D // 2) + pair, pair, D // 2, DB // 2)[None, :]
        page_id = tl.load(tables + row * table_stride + pos // PAGE).to(tl.int64)
        cache_at = page_id * page_stride + (pos % PAGE) * token_stride
        scale_at = page_id * scale_stride + pos % PAGE
        base = qkv + token.to(tl.int64) * ((HQ + 2 * HKV) * D)
        h = tl.arange(0, HB)
        d = tl.arange(0, DB)
        # Queries, then keys: the pairs are loaded together, so that memory is read and written in whole lines.
        for block in tl.static_range((HQ + HKV + HB - 1) // HB):
            head = block * HB + h
            at = base + head[:, None] * D + d[None, :]
            exists = within_head((head < HQ + HKV)[:, None], d[None, :], D, DB)
            even, odd = tl.split(tl.reshape(tl.load(at, mask=exists, other=0.0).to(tl.float32), [HB, DB // 2, 2]))
            even, odd = rotate(even, odd, c, s)
            rotated = tl.reshape(tl.join(even, odd), [HB, DB]).to(qkv.dtype.element_ty)
            tl.store(at, rotated, mask=exists & (head < HQ)[:, None])
            k_at = cache_at + (head - HQ)[:, None] * head_stride + d[None, :]
            if SCALED:
                codes, scale = quantize_vectors(rotated.to(tl.float32), 1)
                stored = codes.to(k_cache.dtype.element_ty)
                is_key = (head >= HQ) & (head < HQ + HKV)
                tl.store(scales + 2 * (scale_at + (head - HQ) * PAGE), bf16_bits(scale).to(tl.int16), mask=is_key)
            else:
                stored = rounded_to(rotated, k_cache.dtype.element_ty)
            tl.store(k_cache + k_at, stored, mask=exists & (head >= HQ)[:, None])
        for block in tl.static_range((HKV + HB - 1) // HB):
            head = block * HB + h
            exists = within_head((head < HKV)[:, None], d[None, :], D, DB)
            v = tl.load(base + (HQ + HKV + head)[:, None] * D + d[None, :], mask=exists, other=0.0)
            if SCALED:
                v, scale = quantize_vectors(v.to(tl.float32), 1)
                half = bf16_bits(scale).to(tl.int16)
                tl.store(scales + 2 * (scale_at + head * PAGE) + 1, half, mask=head < HKV)
            v_at = cache_at + head[:, None] * head_stride + d[None, :]
            tl.store(v_cache + v_at, rounded_to(v, v_cache.dtype.element_ty), mask=exists)


@triton.jit
def attend_tile(
    q, k_cache, v_cache, scales, table, at, end, query_positions, kv_head, page_stride, token_stride, head_stride,
    scale_stride, scale, m, denom, acc,
    D: tl.constexpr, PAGE: tl.constexpr, SCALED: tl.constexpr, MASKED: tl.constexpr,
    DB: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, FINITE: tl.constexpr = False,
):  # fmt: skip
    """Add one tile of positions `at` [T] to the running softmax (m [Q], denom [Q], acc [Q, D]) of queries q [Q, D].

    Without MASKED every query sees the whole tile. With it, positions from `end` on are not read, and each query sees
    those of its window up to its own of query_positions [Q]. What a query adds from a tile of which it sees nothing
    vanishes when it sees its first position, as its maximum was so low. With FINITE a value that is not finite is 0, so
    that queries which do not see it are not touched; others have its key's score.
    """
    d = tl.arange(0, DB)
    if MASKED:
        mask = at < end
        page_ids = tl.load(table + at // PAGE, mask=mask, other=0).to(tl.int64)
        base = page_ids * page_stride + (at % PAGE) * token_stride + kv_head * head_stride
        k_present = within_head(mask[None, :], d[:, None], D, DB)
        v_present = within_head(mask[:, None], d[None, :], D, DB)
        kt = tl.load(k_cache + base[None, :] + d[:, None], mask=k_present, other=0.0)
        vt = tl.load(v_cache + base[:, None] + d[None, :], mask=v_present, other=0.0)
    else:
        page_ids = tl.load(table + at // PAGE).to(tl.int64)
        base = page_ids * page_stride + (at % PAGE) * token_stride + kv_head * head_stride
        kt = load_head(k_cache + base[None, :] + d[:, None], d[:, None], D, DB)
        vt = load_head(v_cache + base[:, None] + d[None, :], d[None, :], D, DB)
    score = tl.dot(q, kt.to(q.dtype), input_precision="ieee") * scale
    if SCALED:
        ks, vs = load_kv_scales(scales, page_ids, at, kv_head, at < end, scale_stride, PAGE)
        if FINITE:
            vs = tl.where(tl.abs(vs) < float("inf"), vs, 0.0)
        score = score * ks[None, :]
    elif FINITE:
        vt = tl.where(tl.abs(vt.to(tl.float32)) < float("inf"), vt, 0.0).to(vt.dtype)
    score = soft_cap(score, CAP)
    if MASKED:
        seen = at[None, :] <= query_positions[:, None]
        if WINDOW > 0:
            seen = seen & (at[None, :] > query_positions[:, None] - WINDOW)
        score = tl.where(seen, score, -1.0e30)
    m, denom, alpha, p = online_softmax_weights(score, at < end, m, denom, False)
    if SCALED:
        p = p * vs[None, :]
    return m, denom, tl.dot(p.to(q.dtype), vt.to(q.dtype), acc * alpha[:, None], input_precision="ieee")


@triton.jit
def chunk_attention_kernel(
    qkv, k_cache, v_cache, blocks, tables, out, partial_out, partial_stats, counters,
    table_stride, page_stride, token_stride, head_stride, scales, scale_stride, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, ITEM: tl.constexpr, SCALED: tl.constexpr, DB: tl.constexpr, WINDOW: tl.constexpr,
    CAP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for each query head and each entry: a block of up to BLOCK queries, or one of the splits of its
    positions. Pointers: see `chunk_attention`.

    HQ query heads, HKV kv heads; D: head dim; PAGE: page size; TILE: positions read at once; SCALED: int8 caches;
    DB: D padded; WINDOW: 0 for none; CAP: see `soft_cap`. `scale` is the scores' factor times log2(e).
    """
    head = tl.program_id(0)
    block = tl.program_id(1)
    grid_wait(PDL)
    launch_dependents(PDL)
    entry = blocks + block * ITEM
    row = tl.load(entry)
    if row >= 0:
        first = tl.load(entry + 1)
        count = tl.load(entry + 2)
        start = tl.load(entry + 3)
        split = tl.load(entry + 4)
        num_splits = tl.load(entry + 5)
        table = tables + row * table_stride
        i = tl.arange(0, BLOCK)
        t = tl.arange(0, TILE)
        d = tl.arange(0, DB)
        kv_head = head // (HQ // HKV)
        live = within_head((i < count)[:, None], d[None, :], D, DB)
        tokens = (first + i).to(tl.int64)[:, None]
        q = tl.load(qkv + tokens * ((HQ + 2 * HKV) * D) + head * D + d[None, :], mask=live, other=0.0)
        m = tl.full([BLOCK], -1.0e30, tl.float32)
        denom = tl.zeros([BLOCK], tl.float32)
        acc = tl.zeros([BLOCK, DB], tl.float32)
        end = start + count
        first_tile = 0  # of all splits
        if WINDOW > 0:
            first_tile = tl.maximum(start - WINDOW + 1, 0) // TILE  # no query sees one before the first query's window
        per = tl.cdiv(tl.cdiv(end, TILE) - first_tile, num_splits)
        low = first_tile + split * per
        high = tl.minimum(low + per, tl.cdiv(end, TILE))
        masked = tl.maximum(low, tl.minimum(high, start // TILE))  # from this tile on some queries do not see its end
        full = low
        if WINDOW > 0:
            # The last query's window begins in the tile before this one, or at its start.
            full = tl.maximum(low, tl.minimum(masked, tl.cdiv(tl.maximum(end - WINDOW, 0), TILE)))
            for tile in tl.range(low, full, num_stages=STAGES):
                m, denom, acc = attend_tile(
                    q, k_cache, v_cache, scales, table, tile * TILE + t, end, start + i, kv_head, page_stride,
                    token_stride, head_stride, scale_stride, scale, m, denom, acc,
                    D, PAGE, SCALED, True, DB, WINDOW, CAP,
                )  # fmt: skip
        for tile in tl.range(full, masked, num_stages=STAGES):
            m, denom, acc = attend_tile(
                q, k_cache, v_cache, scales, table, tile * TILE + t, end, start + i, kv_head, page_stride, token_stride,
                head_stride, scale_stride, scale, m, denom, acc, D, PAGE, SCALED, False, DB, WINDOW, CAP,
            )  # fmt: skip
        for tile in tl.range(masked, high, num_stages=STAGES):
            m, denom, acc = attend_tile(
                q, k_cache, v_cache, scales, table, tile * TILE + t, end, start + i, kv_head, page_stride, token_stride,
                head_stride, scale_stride, scale, m, denom, acc, D, PAGE, SCALED, True, DB, WINDOW, CAP,
            )  # fmt: skip
        out_at = out + tokens * (HQ * D) + head * D + d[None, :]
        if num_splits == 1:
            tl.store(out_at, (acc * (1.0 / denom)[:, None]).to(out.dtype.element_ty), mask=live)
        else:
            base = ((block - split) * HQ + head) * BLOCK + i
            merge_splits(
                partial_out, partial_stats, counters + (block - split) * HQ + head, base, HQ * BLOCK, split, num_splits,
                m, denom, acc, i < count, out_at, live, DB,
            )  # fmt: skip


def rotate_and_store(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    token_rows: torch.Tensor,
    token_positions: torch.Tensor,
    tables: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    heads: int,
    scales: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """Rotate the chunk tokens' queries in `qkv` in place, and store their keys (rotated) and values in their pages.

    qkv [tokens, (heads + 2 · kv heads) · D], in the model's dtype; token_rows, token_positions int32 [tokens], row -1
    for padding. Caches, scales, tables int32 [rows, ≥ pages of a row], cos and sin as in `decode_attention`.
    """
    _, page_size, kv_heads, dim = k_cache.shape
    rotate_and_store_kernel[(token_rows.shape[0],)](
        qkv, k_cache, v_cache, token_rows, token_positions, tables, cos, sin,
        tables.stride(0), k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        *scale_arguments(None if scales is None else scales.view(torch.int16), qkv, words=2),
        HQ=heads, HKV=kv_heads, D=dim, PAGE=page_size, HB=min(32, triton.next_power_of_2(heads)),
        SCALED=scales is not None, DB=padded_head(dim), PDL=pdl,
        num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def chunk_attention(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    blocks: torch.Tensor,
    tables: torch.Tensor,
    out: torch.Tensor,
    partial_out: torch.Tensor,
    partial_stats: torch.Tensor,
    counters: torch.Tensor,
    *,
    heads: int,
    block: int = 64,
    tile: int = 64,
    scales: torch.Tensor | None = None,
    rule: AttentionRule = PLAIN,
    warps: int = 4,
    stages: int = 2,
    pdl: bool = False,
) -> None:
    """out [tokens, heads · D] = attention of the chunk tokens over their rows' pages, as `rule` says.

    `rotate_and_store` comes first. qkv [tokens, (heads + 2 · kv heads) · D], in the model's dtype. blocks int32
    [n, QUERY_BLOCK]: row (-1: none), first token, number of tokens (at most `block`), position of the first token,
    split, number of splits. Splits of a block are side by side. Caches, scales and tables as in `decode_attention`.
    Programs start in the order of the list: the longest contexts should come first, and empty entries last.

    For the s entries of blocks with several splits, which come first: partial_out float32 [≥ s · heads · block, DB];
    partial_stats float32 [≥ s · heads · block, 2]; counters int32 [≥ s · heads], zero before and after.
    """
    _, page_size, kv_heads, dim = k_cache.shape
    chunk_attention_kernel[(heads, blocks.shape[0])](
        qkv, k_cache, v_cache, blocks, tables, out, partial_out, partial_stats, counters,
        tables.stride(0), k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        *scale_arguments(scales, out), log2_scale(rule, dim),
        HQ=heads, HKV=kv_heads, D=dim, PAGE=page_size, BLOCK=block, TILE=tile, STAGES=stages, ITEM=QUERY_BLOCK,
        SCALED=scales is not None, DB=padded_head(dim), WINDOW=rule.window or 0, CAP=log2_cap(rule), PDL=pdl,
        num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
