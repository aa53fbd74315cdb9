"""The feed-forward of a mixture of experts: which experts a token uses, and products with the matrices of each.

Each token has PER experts. A pair is a token and one of its experts: pair p belongs to token p // PER. Pairs are
grouped by expert into blocks of BM, so an expert's matrices are read once for each block, and not at all if no token
chose it. All sizes are fixed by the number of tokens: the host waits for nothing, and a graph serves every choice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents

_PAIRS_AT_ONCE = 1024


@triton.jit
def route_kernel(
    logits, chosen, weights,
    EXPERTS: tl.constexpr, EB: tl.constexpr, PER: tl.constexpr, NORMALIZED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token per program. Pointers: see `route`; EB: EXPERTS padded."""
    token = tl.program_id(0)
    expert = tl.arange(0, EB)
    grid_wait(PDL)
    launch_dependents(PDL)
    logit = tl.load(logits + token * EXPERTS + expert, mask=expert < EXPERTS, other=0.0).to(tl.float32)
    logit = tl.where(expert < EXPERTS, logit, -1.0e30)
    share = tl.exp(logit - tl.max(logit, 0))
    share = share / tl.sum(share, 0)
    left = tl.where(expert < EXPERTS, share, -2.0)
    place = tl.arange(0, EB)  # of a choice among the token's
    choices = tl.zeros([EB], tl.int32)
    picked = tl.zeros([EB], tl.float32)
    for number in tl.static_range(PER):
        best = tl.minimum(tl.argmax(left, 0), EXPERTS - 1)  # of NaN, the argmax may be past the experts
        choices = tl.where(place == number, best, choices)
        picked = tl.where(place == number, tl.sum(tl.where(expert == best, share, 0.0), 0), picked)
        left = tl.where(expert == best, -1.0, left)
    if NORMALIZED:
        picked = picked / tl.sum(picked, 0)
    tl.store(chosen + token * PER + place, choices, mask=place < PER)
    tl.store(weights + token * PER + place, picked, mask=place < PER)


@triton.jit
def count_kernel(chosen, counts, num_pairs, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """One expert per program: counts its pairs."""
    expert = tl.program_id(0)
    grid_wait(PDL)
    launch_dependents(PDL)
    found = tl.zeros([BLOCK], tl.int32)
    for first in range(0, num_pairs, BLOCK):
        pair = first + tl.arange(0, BLOCK)
        found += (tl.load(chosen + pair, mask=pair < num_pairs, other=-1) == expert).to(tl.int32)
    tl.store(counts + expert, tl.sum(found, 0))


@triton.jit
def arrange_kernel(
    chosen, counts, order, block_experts, num_blocks, num_pairs,
    EXPERTS: tl.constexpr, EB: tl.constexpr, BM: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One expert per program: write its blocks and the pairs in them. Pointers: see `arrange`; EB: EXPERTS padded."""
    expert = tl.program_id(0)
    other = tl.arange(0, EB)
    grid_wait(PDL)
    launch_dependents(PDL)
    blocks = tl.cdiv(tl.load(counts + other, mask=other < EXPERTS, other=0), BM)
    first_block = tl.sum(tl.where(other < expert, blocks, 0), 0)
    count = tl.load(counts + expert)
    own_blocks = tl.cdiv(count, BM)
    for block in range(0, own_blocks):
        tl.store(block_experts + first_block + block, expert)
    if expert == EXPERTS - 1:
        tl.store(num_blocks, first_block + own_blocks)
    begin = order + first_block * BM
    placed = 0
    for first in range(0, num_pairs, BLOCK):
        pair = first + tl.arange(0, BLOCK)
        is_own = tl.load(chosen + pair, mask=pair < num_pairs, other=-1) == expert
        place = placed + tl.cumsum(is_own.to(tl.int32), 0) - 1
        tl.store(begin + place, pair, mask=is_own)
        placed += tl.sum(is_own.to(tl.int32), 0)
    place = count + tl.arange(0, BM)
    tl.store(begin + place, tl.zeros([BM], tl.int32) - 1, mask=place < own_blocks * BM)


@triton.jit
def combine_kernel(
    products, weights, out, DIM: tl.constexpr, BLOCK: tl.constexpr, PER: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """BLOCK columns of one token per program. Pointers: see `combine`."""
    token = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    grid_wait(PDL)
    launch_dependents(PDL)
    total = tl.zeros([BLOCK], tl.float32)
    for place in tl.static_range(PER):
        pair = token * PER + place
        value = tl.load(products + pair * DIM + d, mask=d < DIM, other=0.0).to(tl.float32)
        total += value * tl.load(weights + pair)
    tl.store(out + token * DIM + d, total.to(out.dtype.element_ty), mask=d < DIM)


def route(
    logits: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, *, normalized: bool, pdl: bool = False
) -> None:
    """chosen int32 [tokens, PER]: each token's best experts; weights float32 [tokens, PER]: their softmax of logits.

    logits [tokens, experts]. `normalized`: a token's weights are divided by their sum.
    """
    tokens, experts = logits.shape
    route_kernel[(tokens,)](
        logits, chosen, weights, EXPERTS=experts, EB=triton.next_power_of_2(experts), PER=chosen.shape[1],
        NORMALIZED=normalized, PDL=pdl, num_warps=1, launch_pdl=pdl,
    )  # fmt: skip


def max_blocks(pairs: int, experts: int, block: int) -> int:
    """Upper bound on blocks: the last one of each expert may be partial."""
    return pairs // block + min(experts, pairs)


def arrange(
    chosen: torch.Tensor,
    counts: torch.Tensor,
    order: torch.Tensor,
    block_experts: torch.Tensor,
    num_blocks: torch.Tensor,
    *,
    block: int,
    pdl: bool = False,
) -> None:
    """Group the pairs of `chosen` int32 [tokens, PER] by expert, in blocks of `block` pairs; all int32.

    counts [experts]; order [max_blocks · block]: pairs, -1 at the end of an expert's last block; block_experts
    [max_blocks]; num_blocks [1]: how many blocks are used.
    """
    pairs, experts = chosen.numel(), counts.shape[0]
    at_once = min(_PAIRS_AT_ONCE, max(16, triton.next_power_of_2(pairs)))
    count_kernel[(experts,)](chosen, counts, pairs, BLOCK=at_once, PDL=pdl, num_warps=4, launch_pdl=pdl)
    arrange_kernel[(experts,)](
        chosen, counts, order, block_experts, num_blocks, pairs, EXPERTS=experts, EB=triton.next_power_of_2(experts),
        BM=block, BLOCK=at_once, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def combine(products: torch.Tensor, weights: torch.Tensor, out: torch.Tensor, *, pdl: bool = False) -> None:
    """out [tokens, dim] = the sum of each token's products [tokens · PER, dim] times weights float32 [tokens, PER]."""
    tokens, dim = out.shape
    block = min(1024, triton.next_power_of_2(dim))
    combine_kernel[(triton.cdiv(dim, block), tokens)](
        products, weights, out, DIM=dim, BLOCK=block, PER=weights.shape[1], PDL=pdl, num_warps=4, launch_pdl=pdl
    )
