"""Finds 4-bit codes, scales and offsets of groups of weights: those of the file where it had some, else the nearest.

A group of weights that were 4-bit codes in a file is evenly spaced: w = step * code + minimum (GGUF's Q4_0, Q4_1 and
Q4_K, AWQ, GPTQ, packed compressed-tensors). Its codes are found again, and only the step and the minimum are rounded,
to float16. Other weights are rounded to the grid with the smallest squared error. docs/performance.md has the loss.

It knows groups of numbers, nothing of layouts or files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

GROUP: Final = 32  # columns
SCALE, ZERO, OFFSET = 0, 1, 2  # what a group stores: see `int4_weight`
MAX_CODE: Final = 15
_RANGE_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # fractions of a group's range that are tried
# By how much a decoded weight may be off the grid, as a part of the group's largest: two roundings to its dtype.
_ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
_FLOAT32_ROUNDING = 2.0**-21
_MAX_DEVIATION = 0.12  # in steps; 32 weights that are no codes are all that near with a probability of 1e-20
_SAMPLE = 256  # groups that tell whether it is worth looking at the others
_EXPONENT = 8  # the largest weight of a row is below 2 ** 8 row scales


@dataclass(frozen=True, slots=True)
class Groups:
    """w = row_scale * (scale * (code - zero) + offset) of weights [rows, groups, GROUP].

    `codes`: uint8 of the weights' shape. `scale` and `offset`: float16 [rows, groups]. `zero`: int16 [rows, groups].
    `row_scales`: float32 [rows].
    """

    format: int
    codes: Tensor
    scale: Tensor
    zero: Tensor
    offset: Tensor
    row_scales: Tensor

    def converted(self, to: int) -> Groups:
        """The same weights in format `to`: the present one or OFFSET."""
        if to == self.format:
            return self
        offset = self.offset.float() + (8 - self.zero) * self.scale.float()  # few bits: exact, except with an offset
        return replace(self, format=to, zero=torch.full_like(self.zero, 8), offset=offset.half())

    def planes(self) -> list[Tensor]:
        """int16 [rows, groups] each: what the format stores."""
        scale = self.scale.view(torch.int16)
        if self.format == ZERO:
            return [scale & -16 | self.zero]
        return [scale, self.offset.view(torch.int16)][: 1 if self.format == SCALE else 2]


def has_codes(weight: Tensor) -> bool:
    """Whether at least half of the groups of weight [rows, groups, GROUP] (any float dtype) were codes in a file."""
    return _share_of_codes(weight.view(-1, GROUP), _ROUNDING.get(weight.dtype, _FLOAT32_ROUNDING)) >= 0.5


def find_groups(weight: Tensor, *, coded: bool) -> Groups:
    """Groups that represent weight [rows, groups, GROUP], of any float dtype. `coded`: what `has_codes` says of it."""
    w = weight.float()
    _, exponent = torch.frexp(w.abs().amax((1, 2)))
    row_scales = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent - _EXPONENT)
    w = w / row_scales[:, None, None]
    if not coded:
        return _nearest(w, row_scales)
    found, known = _file_groups(w, row_scales, _ROUNDING.get(weight.dtype, _FLOAT32_ROUNDING))
    if bool(known.all()):
        symmetric = bool(((found.offset == 0) | ~known).all())
        return replace(found, format=SCALE) if symmetric else found
    others = _nearest(w, row_scales).converted(OFFSET)
    return replace(
        found,
        codes=torch.where(known[..., None], found.codes, others.codes),
        scale=torch.where(known, found.scale, others.scale),
        offset=torch.where(known, found.offset, others.offset),
    )


def were_codes(weight: Tensor) -> bool:
    """Whether (nearly) all weights [rows, columns], of any float dtype, were 4-bit codes in a file."""
    rows, columns = weight.shape
    groups = weight[:, : columns // GROUP * GROUP].view(rows, -1, GROUP)
    step = max(1, groups.shape[0] * groups.shape[1] // _SAMPLE // 4)
    sample = groups.reshape(-1, GROUP)[::step]
    return _share_of_codes(sample, _ROUNDING.get(weight.dtype, _FLOAT32_ROUNDING)) > 0.98


def _share_of_codes(groups: Tensor, rounding: float) -> float:
    """The share of groups [n, GROUP] whose values are evenly spaced, in a sample; those of one value do not count."""
    chosen = (groups.amax(-1) > groups.amin(-1)).nonzero()[:, 0]
    sample = groups[chosen[:: max(1, len(chosen) // _SAMPLE)]].float()
    return float(_are_even(sample, rounding).float().mean()) if len(sample) else 0.0


def _are_even(w: Tensor, rounding: float) -> Tensor:
    """For each group of w [n, GROUP], whether `_even_steps` finds a step. It tries all at once: few launches."""
    low, high = w.aminmax(dim=-1, keepdim=True)
    steps = torch.stack([(high - low) / count for count in range(1, MAX_CODE + 1)])
    return _fits(steps, w - low, _slack(w, rounding))[0].any(0)[..., 0]


def _even_steps(w: Tensor, rounding: float) -> Tensor:
    """The step [...] of each group [..., GROUP] whose weights are its minimum plus 0 … 15 steps; 0 for other groups.

    Among several the best is the largest that needs no offset; then, as a file's step is often a float16, one of those.
    """
    low, high = w.aminmax(dim=-1, keepdim=True)
    span, above = high - low, w - low
    slack = _slack(w, rounding)
    best, best_rank = torch.zeros_like(span), torch.zeros_like(span)
    for count in range(1, MAX_CODE + 1):
        step = span / count
        fits, limit = _fits(step, above, slack)
        exact = (step.half().float() - step).abs() <= step * 2.0**-19
        rank = fits * (1.0 + exact + 2.0 * (_first_code(low / step, count, limit) >= 0))
        best, best_rank = torch.where(rank > best_rank, step, best), torch.maximum(best_rank, rank)
    return best[..., 0]


def _slack(w: Tensor, rounding: float) -> Tensor:
    """How far decoded weights of each group may be from multiples of its step."""
    return 2 * rounding * w.abs().amax(-1, keepdim=True)


def _fits(step: Tensor, above: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the weights of a group, given as `above` its minimum, are whole steps; and the tolerance in steps."""
    position = above / step
    limit = (slack / step).clamp_max_(_MAX_DEVIATION)
    return ((position - position.round()).abs() <= limit).all(-1, keepdim=True) & (step > 0), limit


def _first_code(lowest: Tensor, count: Tensor | int, limit: Tensor) -> Tensor:
    """The code of the group's minimum, `lowest` steps, without an offset; -1 if there is none.

    `count` steps lie between the minimum and the maximum. 16 stands for groups whose step is to be negative, as only
    then their largest weight, 8 steps, has a code.
    """
    whole = lowest.round()
    on_grid = (lowest - whole).abs() <= limit
    positive = (whole >= -8) & (whole + count <= 7)
    negative = (whole >= -7) & (whole + count <= 8)
    return torch.where(on_grid & positive, whole + 8, torch.where(on_grid & negative, 16.0, -1.0))


def _file_groups(w: Tensor, row_scales: Tensor, rounding: float) -> tuple[Groups, Tensor]:
    """(groups in OFFSET, bool [rows, groups]: which of them keep the file's weights)."""
    low, high = w.aminmax(dim=-1)
    one_value = low == high
    step = _even_steps(w, rounding)
    known = (step > 0) | one_value
    # A group of one value is one step from 8.
    step = torch.where(one_value, torch.where(low == 0, 1.0, low.abs()), torch.where(known, step, 1.0))
    positions = ((w - low[..., None]) / step[..., None]).round_()
    # The steps of rounded weights are fitted; the weights of a file's groups in float32 say them exactly.
    if rounding > _FLOAT32_ROUNDING:
        centred = positions - positions.mean(-1, keepdim=True)
        fitted = (centred * w).sum(-1) / centred.square().sum(-1).clamp_min_(1e-9)
        step = torch.where(one_value, step, fitted)
    last = positions.amax(-1)
    slack = (2 * rounding * w.abs().amax(-1) / step).clamp_max_(_MAX_DEVIATION)
    first = _first_code(low / step, last, slack)
    symmetric, negative = first >= 0, first == 16
    # Else codes begin where the offset gets smallest.
    first = torch.where(symmetric, first, torch.minimum((low / step).round_().add_(8).clamp_(min=0), MAX_CODE - last))
    first = torch.where(negative, 8 - (low / step).round_(), first)
    codes = (first[..., None] + torch.where(negative[..., None], -positions, positions)).clamp_(0, MAX_CODE)
    scale = torch.where(negative, -step, step).half()
    offset = (w - (codes - 8) * scale.float()[..., None]).mean(-1)
    offset = torch.where(symmetric, 0.0, offset).half()
    zero = torch.full_like(codes[..., 0], 8, dtype=torch.int16)
    return Groups(OFFSET, codes.to(torch.uint8), scale, zero, offset, row_scales), known


def _nearest(w: Tensor, row_scales: Tensor) -> Groups:
    """Groups in ZERO with a small squared error.

    Each fraction in _RANGE_FACTORS of a group's range gives a step and codes, to which the step is fitted by least
    squares. So outliers are clipped where that serves the other weights.
    """
    low, high = (each.unsqueeze(-1) for each in w.aminmax(dim=-1))
    low, high = low.clamp(max=0), high.clamp(min=0)  # zero is one of the codes
    best_error = torch.full_like(low, torch.inf)
    best_scale, best_zero = torch.zeros_like(low), torch.zeros_like(low)
    # Two buffers that all attempts reuse: on a GPU, reading and writing them takes nearly all of the time.
    distance, product = torch.empty_like(w), torch.empty_like(w)
    for fraction in _RANGE_FACTORS:
        step = ((high - low) * (fraction / MAX_CODE)).clamp_min_(1e-6)
        zero = ((step * MAX_CODE - low - high) / 2 / step).round_().clamp_(0, MAX_CODE)
        _round_to_codes(w, step, zero, out=distance).sub_(zero)
        step = torch.mul(distance, w, out=product).sum(-1, keepdim=True)
        step /= distance.square_().sum(-1, keepdim=True).clamp_min_(1e-9)
        step = _short_half(step).float()
        _round_to_codes(w, step, zero, out=distance)
        error = distance.sub_(zero).mul_(step).sub_(w).square_().sum(-1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale, best_zero = torch.where(better, step, best_scale), torch.where(better, zero, best_zero)
    codes = _round_to_codes(w, best_scale, best_zero, out=distance).to(torch.uint8)
    scale, zero = best_scale[..., 0].half(), best_zero[..., 0].to(torch.int16)
    return Groups(ZERO, codes, scale, zero, torch.zeros_like(scale), row_scales)


def _round_to_codes(w: Tensor, step: Tensor, zero: Tensor, *, out: Tensor) -> Tensor:
    """The codes nearest to w / step + zero, in `out`; a step of 0 counts as 1."""
    torch.addcdiv(zero, w, torch.where(step == 0, 1.0, step), out=out)
    return out.round_().clamp_(0, MAX_CODE)


def _short_half(x: Tensor) -> Tensor:
    """The nearest float16 whose low 4 bits are 0."""
    return ((x.half().view(torch.int16) + 8) & -16).view(torch.float16)
