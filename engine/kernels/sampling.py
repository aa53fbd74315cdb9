"""Samples one id per row, greedily or by temperature and top-p, without sorting the vocabulary.

`engine/layers/sampler.py` defines the result. Top-p keeps every token whose probability is above a threshold, and the
first few of those that equal it. The threshold is found by bisection over the bits of the unnormalized probabilities,
two bits a pass. Random numbers come from the same counter-based generator, so the ids are the definition's, except
where sums that were added in another order round differently.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def philox_uniform(low, high, counter):
    """A float32 in [0, 1): 24 bits of the first word of Philox-4x32-10 (Salmon et al. 2011).

    The key is (low, high), 32 bits each, and the counter (counter, 0, 0, 0).
    """
    c0 = counter.to(tl.uint32)
    c1 = tl.zeros_like(c0)
    c2 = tl.zeros_like(c0)
    c3 = tl.zeros_like(c0)
    k0 = low.to(tl.uint32)
    k1 = high.to(tl.uint32)
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, c0 * 0 + 0xD2511F53)
        low0 = c0 * 0xD2511F53
        high1 = tl.umulhi(c2, c2 * 0 + 0xCD9E8D57)
        low1 = c2 * 0xCD9E8D57
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return (c0 >> 8).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def sample_kernel(
    logits, sample_rows, sample_positions, positions, temperatures, top_ps, seeds, ids, row_stride,
    V: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for each sample. Pointers: see `sample`. V: vocabulary, read BLOCK logits at a time."""
    i = tl.program_id(0)
    grid_wait(PDL)
    launch_dependents(PDL)
    row = tl.load(sample_rows + i)
    if row >= 0:
        x = logits + i.to(tl.int64) * row_stride
        v = tl.arange(0, BLOCK)
        top = tl.full([], -float("inf"), tl.float32)
        top_id = tl.zeros([], tl.int32)
        has_nan = tl.zeros([], tl.int32)
        for at in range(0, V, BLOCK):
            logit = tl.load(x + at + v, mask=at + v < V, other=-float("inf"))
            has_nan = tl.maximum(has_nan, tl.max((logit != logit).to(tl.int32), 0))
            logit = tl.where(logit == logit, logit, -float("inf"))
            block_top = tl.max(logit, 0)
            if block_top > top:
                top_id = at + tl.argmax(logit, 0)
                top = block_top
        result = top_id
        if (has_nan > 0) | (top == float("inf")) | (top == -float("inf")):
            result = top_id * 0 - 1
        else:
            temperature = tl.load(temperatures + row)
            if temperature > 0:
                top_p = tl.load(top_ps + row)
                scaled_top = top / temperature
                mass = tl.zeros([BLOCK], tl.float32)
                for at in range(0, V, BLOCK):
                    logit = tl.load(x + at + v, mask=at + v < V, other=-float("inf"))
                    mass += tl.exp(logit / temperature - scaled_top)
                total = tl.sum(mass, 0)
                limit = top_p * total
                # The largest t for which the probabilities >= t sum to more than the limit: the smallest that is kept.
                threshold = tl.zeros([], tl.int32)
                above = total
                if top_p < 1:
                    step = tl.zeros([], tl.int32) + (1 << 28)
                    for _ in range(0, 15):  # bits 29 … 0, two at a time; probabilities are at most 1.0
                        t1 = (threshold + step).to(tl.float32, bitcast=True)
                        t2 = (threshold + 2 * step).to(tl.float32, bitcast=True)
                        t3 = (threshold + 3 * step).to(tl.float32, bitcast=True)
                        s1 = tl.zeros([BLOCK], tl.float32)
                        s2 = tl.zeros([BLOCK], tl.float32)
                        s3 = tl.zeros([BLOCK], tl.float32)
                        for at in range(0, V, BLOCK):
                            logit = tl.load(x + at + v, mask=at + v < V, other=-float("inf"))
                            e = tl.exp(logit / temperature - scaled_top)
                            s1 += tl.where(e >= t1, e, 0.0)
                            s2 += tl.where(e >= t2, e, 0.0)
                            s3 += tl.where(e >= t3, e, 0.0)
                        if tl.sum(s3, 0) > limit:
                            threshold += 3 * step
                        elif tl.sum(s2, 0) > limit:
                            threshold += 2 * step
                        elif tl.sum(s1, 0) > limit:
                            threshold += step
                        step = step >> 2
                    over = tl.zeros([BLOCK], tl.float32)
                    bound = threshold.to(tl.float32, bitcast=True)
                    for at in range(0, V, BLOCK):
                        logit = tl.load(x + at + v, mask=at + v < V, other=-float("inf"))
                        e = tl.exp(logit / temperature - scaled_top)
                        over += tl.where(e > bound, e, 0.0)
                    above = tl.sum(over, 0)
                bound = threshold.to(tl.float32, bitcast=True)
                # How many tokens equal to the threshold are kept: as long as the sum before each is within the limit.
                ties = tl.zeros([], tl.int32)
                if top_p < 1:
                    ties = tl.minimum((limit - above) / tl.maximum(bound, 1.0e-37), 1.0e9).to(tl.int32) + 1
                position = new_position(sample_positions, positions, i, row)
                uniform = philox_uniform(tl.load(seeds + row * 2), tl.load(seeds + row * 2 + 1), position)
                kept = above
                if top_p < 1:
                    count = tl.zeros([BLOCK], tl.int32)
                    for at in range(0, V, BLOCK):
                        logit = tl.load(x + at + v, mask=at + v < V, other=-float("inf"))
                        count += (tl.exp(logit / temperature - scaled_top) == bound).to(tl.int32)
                    kept = above + tl.minimum(tl.sum(count, 0), ties).to(tl.float32) * bound
                target = uniform * kept
                running = tl.zeros([], tl.float32)
                seen = tl.zeros([], tl.int32)
                found = tl.zeros([], tl.int32) - 1
                last_kept = tl.zeros([], tl.int32)  # in case rounding leaves the target above every sum
                for at in range(0, V, BLOCK):
                    if found < 0:
                        logit = tl.load(x + at + v, mask=at + v < V, other=-float("inf"))
                        e = tl.exp(logit / temperature - scaled_top)
                        equal = (e == bound).to(tl.int32)
                        rank = seen + tl.cumsum(equal, 0) - equal
                        keep = (e > bound) | ((equal > 0) & (rank < ties))
                        kept_mass = tl.where(keep, e, 0.0)
                        sums = running + tl.cumsum(kept_mass, 0)
                        first = tl.min(tl.where(keep & (sums > target), at + v, 2147483647), 0)
                        last_kept = tl.maximum(last_kept, tl.max(tl.where(keep, at + v, 0), 0))
                        if first < 2147483647:
                            found = first
                        running += tl.sum(kept_mass, 0)
                        seen += tl.sum(equal, 0)
                result = tl.where(found < 0, last_kept, found)
        tl.store(ids + i, result)


@triton.jit
def new_position(sample_positions, positions, i, row):
    """The position of the token being sampled: sample_positions[i], or if that is -1, one after its row's position."""
    given = tl.load(sample_positions + i)
    return tl.where(given < 0, tl.load(positions + row) + 1, given)


def sample(
    logits: torch.Tensor,
    sample_rows: torch.Tensor,
    sample_positions: torch.Tensor,
    positions: torch.Tensor,
    temperatures: torch.Tensor,
    top_ps: torch.Tensor,
    seeds: torch.Tensor,
    ids: torch.Tensor,
    *,
    block: int = 8192,
    pdl: bool = False,
) -> None:
    """ids int32 [n]: the token sampled from each of logits float32 [n, V]; -1 if a logit is NaN or +∞, or all are −∞.

    sample_rows int32 [n]: whose parameters to use, -1 for no sample (ids[i] is left alone). By row: temperatures
    (<= 0: greedy) and top_ps float32, seeds int32 [rows, 2] (low, high), positions int32. sample_positions int32 [n]:
    the position of the token to be sampled, which the random number depends on; -1: positions[row] + 1.
    """
    count, vocab = logits.shape
    block = min(block, triton.next_power_of_2(vocab))
    sample_kernel[(count,)](
        logits, sample_rows, sample_positions, positions, temperatures, top_ps, seeds, ids, logits.stride(0),
        V=vocab, BLOCK=block, PDL=pdl, num_warps=max(1, min(16, block // 512)), launch_pdl=pdl,
    )  # fmt: skip
