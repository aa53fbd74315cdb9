"""One row decodes: its attention over the cached context runs beside the projection of the new token's value.

Alone, attention of one row is a chain of waits (query, keys, sums over splits, merge) that leaves memory bandwidth
unused. But until its last term it needs only the query and the key: attended = out + value_weight · value, with one
weight for each head. So one GEMV projects query and key. Then this kernel attends in its first programs, and in all
others reads the value's rows of wqkv. The next GEMV adds the deferred term (`gemv.DeferredValue`) as it loads its
input.

The value's programs read nothing that the kernel before wrote, so they do not wait for it: their input, the residual
stream, was complete before that kernel started (the rule in `pdl.py`).
"""

# A kernel has no starred expressions, and its tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.attention.attention_rules import log2_cap, log2_scale, padded_head
from engine.kernels.attention.single_row import attend_split
from engine.kernels.attention.split_kv import SplitConfig
from engine.kernels.eight_bits import rounded_to
from engine.kernels.linear.eight_bit_gemv import EARLY_WORDS, load_early, row_dots
from engine.kernels.linear.gemv import row_products
from engine.kernels.pdl import launch_dependents
from engine.layers.paged_attention import PLAIN, AttentionRule
from engine.model.eight_bit_weight import EightBitWeight


@triton.jit
def fused_decode_value_proj_kernel(
    qkv, h, gain, weight, weight_scales, k_cache, v_cache, slot_rows, positions, tables, cos, sin, out, value_weight,
    partial_out, partial_stats, partial_weight, counters, page_stride, token_stride, head_stride, scale, eps,
    K: tl.constexpr, BLOCK: tl.constexpr, HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    TABLE: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr, MIN_TILES: tl.constexpr,
    DB: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, ROWS: tl.constexpr, BITS: tl.constexpr,
    FP8: tl.constexpr, EARLY_TILES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """HQ · SPLITS programs attend, one split of one head each; the rest project ROWS elements of the value each.

    Pointers: see `fused_decode_value_proj`. BITS: of a weight, 16 or 8, which are int8 or FP8 and have scales; K: width
    of h, read BLOCK at a time (with 8 bits BLOCK lines of 64); HQ query heads, HKV kv heads; D: head
    dim; PAGE: page size; TABLE: stride of tables; TILE: positions read at once; DB: D padded; WINDOW: 0 for
    none; CAP: see `soft_cap`; EARLY_TILES: tiles of a split read before the query exists. `scale` is the scores'
    factor times log2(e).
    """
    program = tl.program_id(0)
    row = tl.load(slot_rows)
    live = row >= 0
    row = tl.where(live, row, 0)
    pos = tl.where(live, tl.load(positions + row), 0)
    table = tables + row * TABLE
    if program >= HQ * SPLITS:
        # Some rows of the value's weights. The new token's value, as its page keeps it, also goes to qkv.
        n = (program - HQ * SPLITS) * ROWS
        if BITS == 16:
            tl.static_assert(ROWS == 2)
            w = weight + n.to(tl.int64) * K
            first, second, _, _ = row_products(
                h, gain, h, h, w, w + K, h, h, eps, K, BLOCK, True, True, False, False, 1, 1, False
            )
            values = (first, second)
        else:
            LINES: tl.constexpr = (K + 63) // 64
            rows = ()
            for r in tl.static_range(ROWS):
                rows = rows + ((n + r).to(tl.int64),)
            STEPS: tl.constexpr = (LINES + BLOCK - 1) // BLOCK
            FITS: tl.constexpr = max(1, EARLY_WORDS // (ROWS * BLOCK * 32))
            EARLY: tl.constexpr = FITS if STEPS > FITS else STEPS
            early = load_early(weight, rows, LINES, BLOCK, EARLY)
            sums, mean_square = row_dots(
                h, gain, h, h, weight, rows, early, K, LINES, FP8, BLOCK, EARLY, True, False, 1, 1
            )
            norm = tl.rsqrt(mean_square + eps)
            values = ()
            for r in tl.static_range(ROWS):
                values = values + (sums[r] * tl.load(weight_scales + n + r) * norm,)
        launch_dependents(PDL)
        page_id = tl.load(table + pos // PAGE, mask=live, other=0).to(tl.int64)
        page_at = v_cache + page_id * page_stride + (pos % PAGE) * token_stride
        for r in tl.static_range(ROWS):
            stored = rounded_to(values[r].to(qkv.dtype.element_ty), v_cache.dtype.element_ty)
            tl.store(qkv + (HQ + HKV) * D + n + r, stored.to(qkv.dtype.element_ty))
            tl.store(page_at + (n + r) // D * head_stride + (n + r) % D, stored, mask=live)
    else:
        attend_split(
            qkv, k_cache, v_cache, table, live, pos, program % HQ, program // HQ, cos, sin, out, value_weight,
            partial_out, partial_stats, partial_weight, counters, out, page_stride, token_stride, head_stride, 0, scale,
            HQ, HKV, D, PAGE, TILE, SPLITS, STAGES, MIN_TILES, DB, WINDOW, CAP, EARLY_TILES, False, False, PDL,
        )  # fmt: skip


def fused_decode_value_proj(
    qkv: torch.Tensor,
    h: torch.Tensor,
    gain: torch.Tensor,
    weight: torch.Tensor | EightBitWeight,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_rows: torch.Tensor,
    positions: torch.Tensor,
    tables: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
    value_weight: torch.Tensor,
    partial_out: torch.Tensor,
    partial_stats: torch.Tensor,
    partial_weight: torch.Tensor,
    counters: torch.Tensor,
    *,
    heads: int,
    eps: float,
    config: SplitConfig,
    block: int,
    first_row: int = 0,
    rule: AttentionRule = PLAIN,
    pdl: bool = False,
) -> None:
    """attended [1, heads · D] in two terms: out + value_weight (by head) · value (by kv head).

    qkv [1, (heads + 2 · kv heads) · D] holds query and key before RoPE; the value in it is written here, as
    weight [first_row: first_row + kv heads · D, K] · RMSNorm(h [1, K]) · gain [K], rounded as the caches round it. The
    new token's key and value are also written to the caches, of the model's dtype or fp8. `block` columns of a weight
    are read at a time. out like attended; value_weight and partial_weight float32 [heads]; partial_out float32
    [heads · config.target_splits, DB]; partial_stats float32 [heads · config.target_splits, 2];
    counters int32 [heads], zero before and after; slot_rows int32 [1]; the rest as in `decode_attention`. Up to
    config.target_splits splits of at least config.min_tiles tiles.
    """
    _, page_size, kv_heads, dim = k_cache.shape
    k, value_rows = weight.shape[1], slice(first_row, first_row + kv_heads * dim)
    if isinstance(weight, EightBitWeight):
        rows = 4 if value_rows.stop % 4 == value_rows.start % 4 == 0 else 2
        matrix, scales = weight.words[value_rows], weight.scales[value_rows]
        block = min(block // 64, triton.next_power_of_2(matrix.shape[1] // 32))
    else:
        rows, matrix, scales = 2, weight[value_rows], weight
        block = min(block, triton.next_power_of_2(k))
    fused_decode_value_proj_kernel[(heads * config.target_splits + kv_heads * dim // rows,)](
        qkv, h, gain, matrix, scales, k_cache, v_cache, slot_rows, positions, tables, cos,
        sin, out, value_weight, partial_out, partial_stats, partial_weight, counters, k_cache.stride(0),
        k_cache.stride(1), k_cache.stride(2), log2_scale(rule, dim), eps,
        K=k, BLOCK=block, HQ=heads, HKV=kv_heads, D=dim, PAGE=page_size,
        TABLE=tables.stride(0), TILE=config.tile_tokens, SPLITS=config.target_splits, STAGES=config.stages,
        MIN_TILES=config.min_tiles, DB=padded_head(dim), WINDOW=rule.window or 0, CAP=log2_cap(rule),
        ROWS=rows, BITS=8 if isinstance(weight, EightBitWeight) else 16,
        FP8=isinstance(weight, EightBitWeight) and weight.fp8,
        EARLY_TILES=config.early_tiles, PDL=pdl, num_warps=config.warps, launch_pdl=pdl,
    )  # fmt: skip
