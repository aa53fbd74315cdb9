"""What some families change about attention: padded heads, a window, a softcap, a scale.

A head size D that is no power of two, or less than 16, is padded to DB: what is past D is read as 0 and never written.
With DB == D, WINDOW == 0 and CAP == 0, nothing here leaves an instruction in a kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from engine.layers.paged_attention import AttentionRule

LARGE_HEAD = 128  # elements; of larger heads, fewer queries and positions are read at once
LOG2E = 1.4426950408889634  # scores are scaled by it, so that exp2 can replace exp


@triton.jit
def within_head(mask, index, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """`mask`, and of `index` those below SIZE where heads are padded to BLOCK. The two have the same rank."""
    if SIZE != BLOCK:
        mask = mask & (index < SIZE)
    return mask


@triton.jit
def load_head(at, index, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """The elements at `at`; 0 where index >= SIZE."""
    return tl.load(at) if SIZE == BLOCK else tl.load(at, mask=index < SIZE, other=0.0)


@triton.jit
def store_head(at, x, index, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Store x at `at` where index < SIZE."""
    if SIZE == BLOCK:
        tl.store(at, x)
    else:
        tl.store(at, x, mask=index < SIZE)


@triton.jit
def soft_cap(score, CAP: tl.constexpr):
    """CAP · tanh(score / CAP); with CAP 0 the score itself. Both are in one unit: attention scales both by log2(e)."""
    if CAP != 0.0:
        # tanh(x) = 1 − 2 / (exp(2 x) + 1), which is ±1 where the exponential overflows or vanishes.
        score = CAP - 2.0 * CAP / (tl.exp2(score * (2.8853900817779268 / CAP)) + 1.0)
    return score


def padded_head(dim: int) -> int:
    """The kernels' DB: tl.dot takes powers of two from 16 on."""
    return max(16, 1 << (dim - 1).bit_length())


def log2_scale(rule: AttentionRule, dim: int) -> float:
    """The factor of the scores of heads of `dim` elements, times log2(e)."""
    return (dim**-0.5 if rule.scale is None else rule.scale) * LOG2E


def log2_cap(rule: AttentionRule) -> float:
    """The kernels' CAP."""
    return 0.0 if rule.softcap is None else rule.softcap * LOG2E
