"""Attention of one new token per slot over its paged context, the new token's rotation and its cache write included.

Reads the rows' positions and page tables on the device, so a step needs nothing from the host. Once a step the contexts
are shared out in parts of about equal length, however different they are; the last program to finish a head merges
its parts in fixed order. Rows that share pages (a guild's persona) run at the same time, so the shared part comes from
the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.kv_quantization import bf16_bits, load_kv_scales, quantize_vectors
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.kernels.split_kv import HEAD, ITEM, MAX_SPLITS, SplitConfig


@triton.jit
def rotate(even, odd, cos, sin):
    """Interleaved rotary embedding of pairs (even, odd) -> the two rotated halves."""
    return even * cos - odd * sin, even * sin + odd * cos


@triton.jit
def online_softmax_update(kt, vt, ks, vs, ok, q1, m, den, acc, SCALED: tl.constexpr):
    """One tile into the running softmax of a single query: every token lane has its own maximum, sum and output."""
    kt = kt.to(tl.float32)
    score = tl.sum(kt * q1, 1)
    if SCALED:
        score = score * ks
    score = tl.where(ok, score, -1.0e30)
    m_new = tl.maximum(m, score)
    alpha = tl.exp2(m - m_new)
    p = tl.where(ok, tl.exp2(score - m_new), 0.0)
    weight = p
    if SCALED:
        weight = p * vs
    return m_new, den * alpha + p, acc * alpha[:, None] + weight[:, None] * vt.to(tl.float32)


@triton.jit
def combine_splits(part_out, part_stat, head, used, D: tl.constexpr, SPLITS: tl.constexpr):
    """A head's parts put together, in fixed order: output [D] and mass, both to the same base; the parts' factors."""
    d = tl.arange(0, D)
    parts = tl.arange(0, SPLITS)
    there = parts < used
    theirs = head * SPLITS + parts
    stat = tl.load(part_stat + theirs * 2, mask=there, other=-1.0e30, cache_modifier=".cg")
    mass = tl.load(part_stat + theirs * 2 + 1, mask=there, other=0.0, cache_modifier=".cg")
    outs = tl.load(part_out + theirs[:, None] * D + d[None, :], mask=there[:, None], other=0.0, cache_modifier=".cg")
    factor = tl.exp2(stat - tl.max(stat, 0))
    return tl.sum(outs * factor[:, None], 0), tl.sum(mass * factor, 0), factor


@triton.jit
def decode_attention_kernel(
    qkv, k_cache, v_cache, work, slot_rows, positions, tables, cos, sin, out, part_out, part_stat, counters,
    table_stride, page_stride, token_stride, head_stride, scales, scale, unit,
    H: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BT: tl.constexpr,
    SPLITS: tl.constexpr, STAGES: tl.constexpr, HEAD: tl.constexpr, ITEM: tl.constexpr, SCALED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """H kv heads, each read by G query heads (GP: the next size a matrix product takes, or 1)."""
    head = tl.program_id(0)
    item = tl.program_id(1)  # the slower index: programs without a part come last, and the others spread evenly
    if item >= tl.load(work):
        return
    part = work + HEAD + item * ITEM
    slot = tl.load(part)
    split = tl.load(part + 1)
    per = tl.load(part + 2)
    used = tl.load(part + 3)
    row = tl.load(slot_rows + slot)
    live_slot = row >= 0
    row = tl.where(live_slot, row, 0)
    pos = tl.where(live_slot, tl.load(positions + row), 0)
    table = tables + row * table_stride
    d = tl.arange(0, D)
    pair = tl.arange(0, D // 2)
    t = tl.arange(0, BT)
    low = split * per
    high = tl.minimum(low + per, tl.cdiv(pos, BT))
    c = tl.load(cos + pos * (D // 2) + pair)
    s = tl.load(sin + pos * (D // 2) + pair)
    grid_wait(PDL)
    launch_dependents(PDL)
    new = qkv + slot.to(tl.int64) * ((G + 2) * H * D)
    g = tl.arange(0, GP)
    q_heads = new + (head * G + g)[:, None] * D
    q_even = tl.load(q_heads + 2 * pair[None, :], mask=g[:, None] < G, other=0.0).to(tl.float32)
    q_odd = tl.load(q_heads + 2 * pair[None, :] + 1, mask=g[:, None] < G, other=0.0).to(tl.float32)
    q_even, q_odd = rotate(q_even, q_odd, c[None, :], s[None, :])
    # The twin rounds the rotated query and key to the model's type; so do we, and scale in fp32 afterwards.
    q = tl.interleave(q_even, q_odd).to(qkv.dtype.element_ty)
    k_new = new + (G * H + head) * D
    k_even = tl.load(k_new + 2 * pair).to(tl.float32)
    k_odd = tl.load(k_new + 2 * pair + 1).to(tl.float32)
    k_even, k_odd = rotate(k_even, k_odd, c, s)
    k = tl.interleave(k_even, k_odd).to(qkv.dtype.element_ty)
    v = tl.load(new + (G * H + H + head) * D + d)
    if SCALED:
        k_codes, k_own = quantize_vectors(k.to(tl.float32), 0)
        v_codes, v_own = quantize_vectors(v.to(tl.float32), 0)
        kept_k = k_codes.to(k_cache.dtype.element_ty)
        kept_v = v_codes.to(v_cache.dtype.element_ty)
        k = k_codes * k_own
        v = v_codes * v_own
    else:
        kept_k = k.to(k_cache.dtype.element_ty)
        kept_v = v.to(v_cache.dtype.element_ty)
        k = kept_k
        v = kept_v
    if live_slot & (split == 0):
        page = tl.load(table + pos // PAGE).to(tl.int64)
        new_home = page * page_stride + (pos % PAGE) * token_stride + head * head_stride + d
        tl.store(k_cache + new_home, kept_k)
        tl.store(v_cache + new_home, kept_v)
        if SCALED:
            both = (bf16_bits(k_own) & 0xFFFF) | (bf16_bits(v_own) << 16)
            tl.store(scales + (page * H + head) * PAGE + pos % PAGE, both)
    qf = q.to(tl.float32)
    mine = split == 0  # the new token itself belongs to the first part
    own = tl.where(mine, tl.sum(qf * k.to(tl.float32)[None, :], 1) * scale, -1.0e30)  # in units of log2
    if GP == 1:
        # One query: no matrix product. Every token lane keeps its own running maximum; lanes meet after the loop.
        m = tl.full([BT], -1.0e30, tl.float32)
        den = tl.zeros([BT], tl.float32)
        acc = tl.zeros([BT, D], tl.float32)
        q1 = qf * scale
        for tile in tl.range(low, high, num_stages=STAGES):
            at = tile * BT + t
            ok = at < pos
            pages = tl.load(table + at // PAGE, mask=ok, other=0).to(tl.int64)
            home = pages * page_stride + (at % PAGE) * token_stride + head * head_stride
            kt = tl.load(k_cache + home[:, None] + d[None, :], mask=ok[:, None], other=0.0)
            vt = tl.load(v_cache + home[:, None] + d[None, :], mask=ok[:, None], other=0.0)
            ks = ok  # nothing, unless there are scales
            vs = ok
            if SCALED:
                ks, vs = load_kv_scales(scales, pages, at, head, ok, H, PAGE)
            m, den, acc = online_softmax_update(kt, vt, ks, vs, ok, q1, m, den, acc, SCALED)
        top = tl.maximum(tl.max(m, 0), tl.max(own, 0))
        weight = tl.exp2(m - top)
        p_own = tl.where(mine, tl.exp2(own - top), 0.0)  # [GP] with GP == 1
        total = tl.sum(den * weight, 0) + p_own
        o = tl.sum(acc * weight[:, None], 0)[None, :] + p_own[:, None] * v.to(tl.float32)[None, :]
        m_all = top + tl.zeros([GP], tl.float32)
    else:
        m_all = own
        total = tl.where(mine, tl.full([GP], 1.0, tl.float32), tl.zeros([GP], tl.float32))
        o = tl.where(mine, v.to(tl.float32)[None, :] + tl.zeros([GP, D], tl.float32), 0.0)
        for tile in tl.range(low, high, num_stages=STAGES):
            at = tile * BT + t
            ok = at < pos
            pages = tl.load(table + at // PAGE, mask=ok, other=0).to(tl.int64)
            home = pages * page_stride + (at % PAGE) * token_stride + head * head_stride
            kt = tl.load(k_cache + home[None, :] + d[:, None], mask=ok[None, :], other=0.0)
            vt = tl.load(v_cache + home[:, None] + d[None, :], mask=ok[:, None], other=0.0)
            score = tl.dot(q, kt.to(q.dtype), input_precision="ieee") * scale
            if SCALED:
                ks, vs = load_kv_scales(scales, pages, at, head, ok, H, PAGE)
                score = score * ks[None, :]
            score = tl.where(ok[None, :], score, -1.0e30)
            m_new = tl.maximum(m_all, tl.max(score, 1))
            alpha = tl.exp2(m_all - m_new)
            p = tl.where(ok[None, :], tl.exp2(score - m_new[:, None]), 0.0)
            total = total * alpha + tl.sum(p, 1)
            if SCALED:
                p = p * vs[None, :]
            # `unit` is 1, which the compiler does not know: it keeps the product apart from the sum. Added up inside
            # the matrix unit, each tile's product would wait for the rescaled sum of the tiles before it.
            o = o * alpha[:, None] + tl.dot(p.to(q.dtype), vt.to(q.dtype), input_precision="ieee") * unit
            m_all = m_new
    heads_at = slot * (H * G) + head * G + g
    live = g < G
    if used == 1:
        y = o / total[:, None]
        tl.store(out + heads_at[:, None] * D + d[None, :], y.to(out.dtype.element_ty), mask=live[:, None])
    else:
        part_at = heads_at * SPLITS + split
        tl.store(part_out + part_at[:, None] * D + d[None, :], o, mask=live[:, None])
        tl.store(part_stat + part_at * 2, m_all, mask=live)
        tl.store(part_stat + part_at * 2 + 1, total, mask=live)
        tl.debug_barrier()
        arrived = tl.atomic_add(counters + slot * H + head, 1, sem="acq_rel")
        if arrived == used - 1:
            tl.store(counters + slot * H + head, 0)
            if GP == 1:
                y, mass, _ = combine_splits(part_out, part_stat, slot * (H * G) + head, used, D, SPLITS)
                y = y / mass
                tl.store(out + (slot * (H * G) + head) * D + d, y.to(out.dtype.element_ty))
            else:
                best = tl.full([GP], -1.0e30, tl.float32)
                sum_all = tl.zeros([GP], tl.float32)
                whole = tl.zeros([GP, D], tl.float32)
                for other in range(0, used):
                    at_other = heads_at * SPLITS + other
                    stat = tl.load(part_stat + at_other * 2, mask=live, other=-1.0e30, cache_modifier=".cg")
                    mass = tl.load(part_stat + at_other * 2 + 1, mask=live, other=0.0, cache_modifier=".cg")
                    outs = tl.load(
                        part_out + at_other[:, None] * D + d[None, :], mask=live[:, None], other=0.0,
                        cache_modifier=".cg",
                    )  # fmt: skip
                    higher = tl.maximum(best, stat)
                    sum_all = sum_all * tl.exp2(best - higher) + mass * tl.exp2(stat - higher)
                    whole = whole * tl.exp2(best - higher)[:, None] + outs * tl.exp2(stat - higher)[:, None]
                    best = higher
                y = whole / tl.where(live, sum_all, 1.0)[:, None]
                tl.store(out + heads_at[:, None] * D + d[None, :], y.to(out.dtype.element_ty), mask=live[:, None])


LOG2E = 1.4426950408889634


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
    part_out: torch.Tensor,
    part_stat: torch.Tensor,
    counters: torch.Tensor,
    *,
    heads: int,
    config: SplitConfig,
    scales: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """Slots' new tokens `qkv` [slots, (heads + 2·kv)·D] attend to their rows' pages; `out` [slots, heads·D].

    slot_rows [slots] names each slot's row, −1 for none; the new token's position is positions[row]; its key and value
    go to the page that tables[row] names. `work` comes from `share_out` with the same slots and cut. Caches are
    [pages, PAGE, kv heads, D] (any strides with D contiguous), in the model's type or fp8; with the scales of
    `narrow_kv`, int8. Parts take [slots · heads · MOST_PARTS] of memory, counters are zero between kernels.
    """
    _, page, kv_heads, dim = k_cache.shape
    group = heads // kv_heads
    decode_attention_kernel[(kv_heads, config.max_work_items(slot_rows.shape[0]))](
        qkv, k_cache, v_cache, work, slot_rows, positions, tables, cos, sin, out, part_out, part_stat, counters,
        tables.stride(0), k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        scales if scales is not None else out, dim**-0.5 * LOG2E, 1.0,
        H=kv_heads, G=group, GP=config.lanes or (1 if group == 1 else max(16, triton.next_power_of_2(group))), D=dim,
        PAGE=page, BT=config.tile_tokens, SPLITS=MAX_SPLITS, STAGES=config.stages, HEAD=HEAD, ITEM=ITEM,
        SCALED=scales is not None, PDL=pdl,
        num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
