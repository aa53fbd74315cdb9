"""One row decodes: its attention over what is cached runs beside the product that makes the new token's value.

Alone, attention is a chain of waits (query, keys, sums over parts, merge) in which memory stands still. But it needs
only the query; the new value joins at the very end, as one more term: attended = out + share · value, with a share for
each head. So a product makes queries and keys, this kernel attends in its first programs and reads the values' weights
in all the others, and the next product adds the two parts up as it loads its input (`gemv.Joined`).

The values' programs read nothing of the kernel before, so they need not wait for it: what they do read, the residual
stream, was complete before that kernel began (the rule in `pdl.py`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.decode_attention import LOG2E, combine_splits, online_softmax_update, rotate
from engine.kernels.gemv import row_products
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.kernels.split_kv import SplitConfig


@triton.jit
def fused_decode_value_proj_kernel(
    qkv, h, gain, weight, k_cache, v_cache, slot_rows, positions, tables, cos, sin, out, share,
    part_out, part_stat, part_own, counters, page_stride, token_stride, head_stride, scale, eps,
    K: tl.constexpr, BLOCK: tl.constexpr, HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    TABLE: tl.constexpr, BT: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr, LEAST: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row = tl.load(slot_rows)
    live = row >= 0
    row = tl.where(live, row, 0)
    pos = tl.where(live, tl.load(positions + row), 0)
    table = tables + row * TABLE
    if program >= HQ * SPLITS:
        # Two rows of the values' weights; the new token's value goes to its page as well.
        n = (program - HQ * SPLITS) * 2
        w = weight + n.to(tl.int64) * K
        first, second, _, _ = row_products(
            h, gain, h, h, w, w + K, h, h, eps, K, BLOCK, True, True, False, False, 1, 1, False
        )
        launch_dependents(PDL)
        value = qkv + (HQ + HKV) * D + n
        tl.store(value, first.to(qkv.dtype.element_ty))
        tl.store(value + 1, second.to(qkv.dtype.element_ty))
        if live:
            page = tl.load(table + pos // PAGE).to(tl.int64)
            home = v_cache + page * page_stride + (pos % PAGE) * token_stride + n // D * head_stride + n % D
            tl.store(home, first.to(v_cache.dtype.element_ty))
            tl.store(home + 1, second.to(v_cache.dtype.element_ty))
    else:
        head = program % HQ
        split = program // HQ
        kv_head = head // (HQ // HKV)
        tiles = tl.cdiv(pos, BT)
        per = tl.maximum(tl.cdiv(tiles, tl.maximum(tl.minimum(tl.cdiv(tiles, LEAST), SPLITS), 1)), 1)
        used = tl.maximum(tl.cdiv(tiles, per), 1)
        if split < used:
            low = split * per
            high = tl.minimum(low + per, tiles)
            d = tl.arange(0, D)
            pair = tl.arange(0, D // 2)
            t = tl.arange(0, BT)
            c = tl.load(cos + pos * (D // 2) + pair)
            s = tl.load(sin + pos * (D // 2) + pair)
            grid_wait(PDL)
            launch_dependents(PDL)
            q_even, q_odd = rotate(
                tl.load(qkv + head * D + 2 * pair).to(tl.float32),
                tl.load(qkv + head * D + 2 * pair + 1).to(tl.float32), c, s,
            )  # fmt: skip
            q = tl.interleave(q_even, q_odd).to(qkv.dtype.element_ty).to(tl.float32)
            k_new = qkv + (HQ + kv_head) * D
            k_even, k_odd = rotate(
                tl.load(k_new + 2 * pair).to(tl.float32), tl.load(k_new + 2 * pair + 1).to(tl.float32), c, s
            )
            k = tl.interleave(k_even, k_odd).to(qkv.dtype.element_ty)
            mine = split == 0
            if live & mine & (head % (HQ // HKV) == 0):
                page = tl.load(table + pos // PAGE).to(tl.int64)
                home = page * page_stride + (pos % PAGE) * token_stride + kv_head * head_stride
                tl.store(k_cache + home + d, k.to(k_cache.dtype.element_ty))
            own = tl.where(mine, tl.sum(q * k.to(tl.float32), 0) * scale, -1.0e30)
            m = tl.full([BT], -1.0e30, tl.float32)
            den = tl.zeros([BT], tl.float32)
            acc = tl.zeros([BT, D], tl.float32)
            scaled = (q * scale)[None, :]
            for tile in tl.range(low, high, num_stages=STAGES):
                at = tile * BT + t
                ok = at < pos
                pages = tl.load(table + at // PAGE, mask=ok, other=0).to(tl.int64)
                home = pages * page_stride + (at % PAGE) * token_stride + kv_head * head_stride
                kt = tl.load(k_cache + home[:, None] + d[None, :], mask=ok[:, None], other=0.0)
                vt = tl.load(v_cache + home[:, None] + d[None, :], mask=ok[:, None], other=0.0)
                m, den, acc = online_softmax_update(kt, vt, ok, ok, ok, scaled, m, den, acc, False)
            top = tl.maximum(tl.max(m, 0), own)
            weights = tl.exp2(m - top)
            p_own = tl.where(mine, tl.exp2(own - top), 0.0)
            total = tl.sum(den * weights, 0) + p_own
            o = tl.sum(acc * weights[:, None], 0)
            if used == 1:
                tl.store(out + head * D + d, (o / total).to(out.dtype.element_ty))
                tl.store(share + head, p_own / total)
            else:
                part = head * SPLITS + split
                tl.store(part_out + part * D + d, o)
                tl.store(part_stat + part * 2, top)
                tl.store(part_stat + part * 2 + 1, total)
                if mine:
                    tl.store(part_own + head, p_own)
                tl.debug_barrier()
                arrived = tl.atomic_add(counters + head, 1, sem="acq_rel")
                if arrived == used - 1:
                    tl.store(counters + head, 0)
                    y, mass, factor = combine_splits(part_out, part_stat, head, used, D, SPLITS)
                    own_mass = tl.load(part_own + head, cache_modifier=".cg")
                    own_mass = own_mass * tl.sum(tl.where(tl.arange(0, SPLITS) == 0, factor, 0.0), 0)
                    tl.store(out + head * D + d, (y / mass).to(out.dtype.element_ty))
                    tl.store(share + head, own_mass / mass)


def fused_decode_value_proj(
    qkv: torch.Tensor,
    h: torch.Tensor,
    gain: torch.Tensor,
    weight: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_rows: torch.Tensor,
    positions: torch.Tensor,
    tables: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
    share: torch.Tensor,
    part_out: torch.Tensor,
    part_stat: torch.Tensor,
    part_own: torch.Tensor,
    counters: torch.Tensor,
    *,
    heads: int,
    eps: float,
    config: SplitConfig,
    block: int,
    pdl: bool = False,
) -> None:
    """qkv [1, (heads + 2·kv)·D] holds the query and the key; its values, and the caches, are completed here.

    `weight` [kv·D, K]: the values' rows, multiplied by norm(h) · gain. attended = out + share (by head) · value.
    """
    _, page, kv_heads, dim = k_cache.shape
    k = weight.shape[1]
    fused_decode_value_proj_kernel[(heads * config.target_splits + kv_heads * dim // 2,)](
        qkv, h, gain, weight, k_cache, v_cache, slot_rows, positions, tables, cos,
        sin, out, share, part_out, part_stat, part_own, counters, k_cache.stride(0), k_cache.stride(1),
        k_cache.stride(2), dim**-0.5 * LOG2E, eps,
        K=k, BLOCK=min(block, triton.next_power_of_2(k)), HQ=heads, HKV=kv_heads, D=dim, PAGE=page,
        TABLE=tables.stride(0), BT=config.tile_tokens, SPLITS=config.target_splits, STAGES=config.stages,
        LEAST=config.min_tiles, PDL=pdl, num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
