"""Merging the splits of one context: each program keeps its split's softmax, and the last one to finish merges them.

Flash-decoding (Dao et al. 2023). The order of the sum is that of the splits, so a result does not depend on which
program was the last. It knows numbers of splits and lanes, and neither rows nor pages.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def merge_splits(
    partial_out, partial_stats, counter, base, stride, split, num_splits, m, denom, acc, is_live, out_at, live,
    DB: tl.constexpr,
):  # fmt: skip
    """Keep the softmax (m [Q], denom [Q], acc [Q, DB]) of one of `num_splits` splits, and merge them if all are there.

    base [Q]: where partial_out [.., DB] and partial_stats [.., 2], float32, keep the first split's queries; the next
    split's are `stride` further. counter: int32, zero before and after, of these splits alone. is_live [Q]: queries
    that exist. The merged attention goes to out_at [Q, DB], where `live` says.
    """
    d = tl.arange(0, DB)
    at = base + split * stride
    tl.store(partial_out + at[:, None] * DB + d[None, :], acc, mask=is_live[:, None])
    tl.store(partial_stats + at * 2, m, mask=is_live)
    tl.store(partial_stats + at * 2 + 1, denom, mask=is_live)
    tl.debug_barrier()
    arrived = tl.atomic_add(counter, 1, sem="acq_rel")
    if arrived == num_splits - 1:
        tl.store(counter, 0)
        best = tl.full(m.shape, -1.0e30, tl.float32)
        total = tl.zeros(m.shape, tl.float32)
        y = tl.zeros(acc.shape, tl.float32)
        for other in range(0, num_splits):
            at = base + other * stride
            other_max = tl.load(partial_stats + at * 2, mask=is_live, other=0.0, cache_modifier=".cg")
            other_sum = tl.load(partial_stats + at * 2 + 1, mask=is_live, other=1.0, cache_modifier=".cg")
            other_out = tl.load(
                partial_out + at[:, None] * DB + d[None, :], mask=is_live[:, None], other=0.0, cache_modifier=".cg"
            )
            higher = tl.maximum(best, other_max)
            total = total * tl.exp2(best - higher) + other_sum * tl.exp2(other_max - higher)
            y = y * tl.exp2(best - higher)[:, None] + other_out * tl.exp2(other_max - higher)[:, None]
            best = higher
        tl.store(out_at, (y / total[:, None]).to(out_at.dtype.element_ty), mask=live)
