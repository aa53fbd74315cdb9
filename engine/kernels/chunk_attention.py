"""Attention of prompt chunks over paged context, and the rotation and cache write that go before it.

The tokens of all chunks of a step lie one behind the other; a block list says which stretch belongs to which row, so
one launch serves any mixture of requests. A block's queries see the row's context up to themselves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.decode_attention import LOG2E, rotate
from engine.kernels.kv_quantization import bf16_bits, load_kv_scales, quantize_vectors
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def rotate_and_store_kernel(
    qkv, k_cache, v_cache, token_rows, token_positions, tables, cos, sin,
    table_stride, page_stride, token_stride, head_stride, scales,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, HB: tl.constexpr, SCALED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One token per program: rotate its queries in place, its keys into the cache, copy its values there."""
    token = tl.program_id(0)
    grid_wait(PDL)
    launch_dependents(PDL)
    row = tl.load(token_rows + token)
    if row >= 0:
        pos = tl.load(token_positions + token)
        pair = tl.arange(0, D // 2)
        c = tl.load(cos + pos * (D // 2) + pair)[None, :]
        s = tl.load(sin + pos * (D // 2) + pair)[None, :]
        page = tl.load(tables + row * table_stride + pos // PAGE).to(tl.int64)
        home = page * page_stride + (pos % PAGE) * token_stride
        scale_home = page * HKV * PAGE + pos % PAGE
        base = qkv + token.to(tl.int64) * ((HQ + 2 * HKV) * D)
        h = tl.arange(0, HB)
        d = tl.arange(0, D)
        # Queries, then keys: neighbours in one vector, so that memory is read and written in whole lines.
        for block in tl.static_range((HQ + HKV + HB - 1) // HB):
            head = block * HB + h
            at = base + head[:, None] * D + d[None, :]
            ok = (head < HQ + HKV)[:, None]
            even, odd = tl.split(tl.reshape(tl.load(at, mask=ok, other=0.0).to(tl.float32), [HB, D // 2, 2]))
            even, odd = rotate(even, odd, c, s)
            turned = tl.reshape(tl.join(even, odd), [HB, D]).to(qkv.dtype.element_ty)
            tl.store(at, turned, mask=ok & (head < HQ)[:, None])
            to = home + (head - HQ)[:, None] * head_stride + d[None, :]
            if SCALED:
                codes, scale = quantize_vectors(turned.to(tl.float32), 1)
                kept = codes.to(k_cache.dtype.element_ty)
                key = (head >= HQ) & (head < HQ + HKV)
                tl.store(scales + 2 * (scale_home + (head - HQ) * PAGE), bf16_bits(scale).to(tl.int16), mask=key)
            else:
                kept = turned.to(k_cache.dtype.element_ty)
            tl.store(k_cache + to, kept, mask=ok & (head >= HQ)[:, None])
        for block in tl.static_range((HKV + HB - 1) // HB):
            head = block * HB + h
            ok = (head < HKV)[:, None]
            v = tl.load(base + (HQ + HKV + head)[:, None] * D + d[None, :], mask=ok, other=0.0)
            if SCALED:
                v, scale = quantize_vectors(v.to(tl.float32), 1)
                half = bf16_bits(scale).to(tl.int16)
                tl.store(scales + 2 * (scale_home + head * PAGE) + 1, half, mask=head < HKV)
            to_v = home + head[:, None] * head_stride + d[None, :]
            tl.store(v_cache + to_v, v.to(v_cache.dtype.element_ty), mask=ok)


@triton.jit
def chunk_attention_kernel(
    qkv, k_cache, v_cache, blocks, tables, out, table_stride, page_stride, token_stride, head_stride,
    scales, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BQ: tl.constexpr, BT: tl.constexpr,
    STAGES: tl.constexpr, SCALED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """blocks [n, 4]: row (−1: none), first token, tokens, the first token's position."""
    head = tl.program_id(0)
    block = tl.program_id(1)
    grid_wait(PDL)
    launch_dependents(PDL)
    row = tl.load(blocks + block * 4)
    if row >= 0:
        first = tl.load(blocks + block * 4 + 1)
        count = tl.load(blocks + block * 4 + 2)
        start = tl.load(blocks + block * 4 + 3)
        table = tables + row * table_stride
        i = tl.arange(0, BQ)
        t = tl.arange(0, BT)
        d = tl.arange(0, D)
        kv_head = head // (HQ // HKV)
        live = (i < count)[:, None]
        tokens = (first + i).to(tl.int64)[:, None]
        q = tl.load(qkv + tokens * ((HQ + 2 * HKV) * D) + head * D + d[None, :], mask=live, other=0.0)
        m = tl.full([BQ], -1.0e30, tl.float32)
        den = tl.zeros([BQ], tl.float32)
        acc = tl.zeros([BQ, D], tl.float32)
        end = start + count
        whole = start // BT  # tiles that every query sees in full
        for tile in tl.range(0, whole, num_stages=STAGES):
            at = tile * BT + t
            pages = tl.load(table + at // PAGE).to(tl.int64)
            home = pages * page_stride + (at % PAGE) * token_stride + kv_head * head_stride
            kt = tl.load(k_cache + home[None, :] + d[:, None])
            vt = tl.load(v_cache + home[:, None] + d[None, :])
            score = tl.dot(q, kt.to(q.dtype), input_precision="ieee") * scale
            if SCALED:
                ks, vs = load_kv_scales(scales, pages, at, kv_head, at < end, HKV, PAGE)
                score = score * ks[None, :]
            m_new = tl.maximum(m, tl.max(score, 1))
            alpha = tl.exp2(m - m_new)
            p = tl.exp2(score - m_new[:, None])
            den = den * alpha + tl.sum(p, 1)
            if SCALED:
                p = p * vs[None, :]
            acc = tl.dot(p.to(q.dtype), vt.to(q.dtype), acc * alpha[:, None], input_precision="ieee")
            m = m_new
        for tile in tl.range(whole, tl.cdiv(end, BT), num_stages=STAGES):
            at = tile * BT + t
            ok = at < end
            pages = tl.load(table + at // PAGE, mask=ok, other=0).to(tl.int64)
            home = pages * page_stride + (at % PAGE) * token_stride + kv_head * head_stride
            kt = tl.load(k_cache + home[None, :] + d[:, None], mask=ok[None, :], other=0.0)
            vt = tl.load(v_cache + home[:, None] + d[None, :], mask=ok[:, None], other=0.0)
            score = tl.dot(q, kt.to(q.dtype), input_precision="ieee") * scale
            if SCALED:
                ks, vs = load_kv_scales(scales, pages, at, kv_head, ok, HKV, PAGE)
                score = score * ks[None, :]
            score = tl.where(at[None, :] <= (start + i)[:, None], score, -1.0e30)
            m_new = tl.maximum(m, tl.max(score, 1))
            alpha = tl.exp2(m - m_new)
            p = tl.exp2(score - m_new[:, None])
            den = den * alpha + tl.sum(p, 1)
            if SCALED:
                p = p * vs[None, :]
            acc = tl.dot(p.to(q.dtype), vt.to(q.dtype), acc * alpha[:, None], input_precision="ieee")
            m = m_new
        acc = acc * (1.0 / den)[:, None]
        tl.store(out + tokens * (HQ * D) + head * D + d[None, :], acc.to(out.dtype.element_ty), mask=live)


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
    """Rotate the chunk tokens' queries in `qkv` in place and put their keys and values into their rows' pages."""
    _, page, kv_heads, dim = k_cache.shape
    rotate_and_store_kernel[(token_rows.shape[0],)](
        qkv, k_cache, v_cache, token_rows, token_positions, tables, cos, sin,
        tables.stride(0), k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        scales.view(torch.int16) if scales is not None else qkv,
        HQ=heads, HKV=kv_heads, D=dim, PAGE=page, HB=min(32, triton.next_power_of_2(heads)),
        SCALED=scales is not None, PDL=pdl,
        num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def chunk_attention(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    blocks: torch.Tensor,
    tables: torch.Tensor,
    out: torch.Tensor,
    *,
    heads: int,
    block: int = 64,
    tile: int = 64,
    scales: torch.Tensor | None = None,
    warps: int = 4,
    stages: int = 2,
    pdl: bool = False,
) -> None:
    """Causal attention of the rotated chunk tokens over their rows' pages; `blocks`: of `block` tokens or less.

    Blocks begin in the order of the list: those that see most belong to its head, and those without a row to its end.
    """
    _, page, kv_heads, dim = k_cache.shape
    chunk_attention_kernel[(heads, blocks.shape[0])](
        qkv, k_cache, v_cache, blocks, tables, out,
        tables.stride(0), k_cache.stride(0), k_cache.stride(1), k_cache.stride(2),
        scales if scales is not None else out, dim**-0.5 * LOG2E,
        HQ=heads, HKV=kv_heads, D=dim, PAGE=page, BQ=block, BT=tile, STAGES=stages, SCALED=scales is not None,
        PDL=pdl,
        num_warps=warps, launch_pdl=pdl,
    )  # fmt: skip
