"""4-bit weights for GPUs: 4.5 bits a weight with the groups' scales. This module knows tensors, no kernels.

Each row has one float32 scale; each group of 32 columns of a row also has a scale and a zero point of 8 bits each,
chosen for the smallest squared error. docs/performance.md has the loss of accuracy.

Layout: a row is a sequence of lines, each 32 words of 16 bits. A word packs 4 columns that are 32 apart: bits
[4 * p, 4 * p + 4) of word j in line l are column (l * 4 + p) * 32 + j. So unpacking part p of a line gives 32
consecutive columns, which are one group. The last line is padded.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.layers.lattice import find_steps
from engine.model.quantized_weight import QuantizedWeight, row_chunks

LINE = 32  # words in a line; also the columns in a group
_PARTS = 4  # columns in a word
ZERO_POINT_UNIT = 16  # zero points are stored in units of 16 row scales, group scales in units of one
RANGE_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # fractions of a group's range that are tried
# Weights that were decoded from 4-bit codes are rounded to their dtype. So one may be off a multiple of its step by
# this part of itself: half a unit in the last place, and as much for the step, which is taken from such weights.
_ROUNDING = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


class Int4Weight(QuantizedWeight):
    """w = row_scale * (group_scale * (nibble - 8) + 16 * zero_point).

    `words`: int16 [rows, lines * 32]. `scales`: float32 [rows]. `groups`: int32 [rows, lines * 2]; entry 2l + h holds
    the groups of parts 2h (low 16 bits) and 2h + 1 (high 16 bits) of line l, each as group_scale (0 … 255) in the low
    byte and zero_point (-128 … 127) in the high byte.
    """

    bits = 4

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape = weight.shape
        rows, columns = weight.shape
        lines, device = num_lines(columns), weight.device
        words = torch.empty(rows, lines * LINE, dtype=torch.int16, device=device)
        groups = torch.empty(rows, 2 * lines, dtype=torch.int32, device=device)
        scales = torch.empty(rows, device=device)
        for chunk in row_chunks(weight):
            words[chunk], scales[chunk], groups[chunk] = quantize_int4(weight[chunk])
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)
        self.register_buffer("groups", groups)

    def dequantize(self) -> Tensor:
        """The matrix in float32, [rows, columns]."""
        rows, columns = self.shape
        shifts = torch.arange(_PARTS, device=self.words.device, dtype=torch.int32)[:, None] * 4
        codes = (self.words.view(rows, -1, 1, LINE).int() >> shifts) & 15
        groups = torch.stack((self.groups, self.groups >> 16), -1).view(rows, -1, _PARTS, 1)
        group_scale, zero_point = groups & 255, groups << 16 >> 24
        w = ((codes - 8) * group_scale + zero_point * ZERO_POINT_UNIT).float()
        return (w.view(rows, -1) * self.scales[:, None])[:, :columns]


def num_lines(columns: int) -> int:
    """Lines of a row."""
    return -(-columns // (LINE * _PARTS))


def int4_bytes(rows: int, columns: int) -> int:
    """Bytes of an `Int4Weight`'s buffers."""
    return rows * (4 + num_lines(columns) * (LINE * 2 + 8))


def quantize_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Group-wise: weight [n, columns] -> (words, scales, groups).

    Each fraction in RANGE_FACTORS of a group's range gives candidate codes, whose group scale and zero point are then
    fitted by least squares. The candidate with the smallest squared error is kept, so outliers are clipped where that
    serves the other weights. Groups that were 4-bit codes in a file are also tried with their own step, which keeps the
    codes: only the step is rounded, to 8 bits.
    """
    rows, columns = weight.shape
    w = F.pad(weight.float(), (0, -columns % (LINE * 4))).view(rows, -1, LINE)
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    step = find_steps(w, _ROUNDING.get(weight.dtype, 2.0**-20))
    # The row scale must let 8 bits hold the widest group's scale, and the zero point of a group on one side of 0.
    scales = torch.maximum((high - low) / (15 * 255), (high + low).abs() / (2 * ZERO_POINT_UNIT * 120)).amax(
        1, keepdim=True
    )
    scales = torch.maximum(scales, step.amax(1, keepdim=True) / 255).clamp_min_(1e-12)
    w, low, high, step = (each / scales for each in (w, low, high, step))  # from here on in units of the row scale
    mean = w.mean(-1, keepdim=True)
    best_error, best_codes = torch.full_like(mean, torch.inf), torch.zeros_like(w)
    best_groups = torch.zeros_like(mean, dtype=torch.int32)
    for group_scale, offset in _candidates(low, high, step):
        codes = _round_to_codes(w, group_scale, offset)
        centred = codes - (mean_code := codes.mean(-1, keepdim=True))
        slope = (centred * (w - mean)).sum(-1, keepdim=True) / centred.square().sum(-1, keepdim=True).clamp_min_(1e-9)
        group_scale = slope.round_().clamp_(0, 255)
        zero_point = ((mean - group_scale * mean_code) / ZERO_POINT_UNIT).round_().clamp_(-128, 127)
        codes = _round_to_codes(w, group_scale, zero_point * ZERO_POINT_UNIT)
        fitted = (codes * group_scale).add_(zero_point * ZERO_POINT_UNIT)
        error = fitted.sub_(w).square_().sum(-1, keepdim=True)
        better = error < best_error
        best_error, best_codes = torch.where(better, error, best_error), torch.where(better, codes, best_codes)
        packed_group = group_scale.int() | (zero_point.int() & 255) << 8
        best_groups = torch.where(better, packed_group, best_groups)
    pairs = best_groups.view(rows, -1, 2)
    return _pack_words(best_codes.view(rows, -1) + 8), scales.flatten(), pairs[..., 0] | pairs[..., 1] << 16


def _candidates(low: Tensor, high: Tensor, step: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The group scales that are tried, each with what the middle code stands for."""
    for fraction in RANGE_FACTORS:
        group_scale = (high - low) * (fraction / 15)
        yield group_scale, (low + high + group_scale) / 2
    if bool((step > 0).any()):
        symmetric = (low > -8.5 * step) & (high < 7.5 * step)
        lowest = (low / torch.where(step > 0, step, 1.0)).round_() * step
        yield step, torch.where(symmetric, 0.0, lowest + 8 * step)


def _round_to_codes(w: Tensor, group_scale: Tensor, offset: Tensor) -> Tensor:
    """The nearest nibbles minus 8 (-8 … 7) for w = group_scale * code + offset."""
    return ((w - offset) / torch.where(group_scale == 0, 1.0, group_scale)).round_().clamp_(-8, 7)


def _pack_words(q: Tensor) -> Tensor:
    """Nibbles [n, columns] -> int16 words [n, lines * LINE]; padding stands for weight 0."""
    q = F.pad(q, (0, -q.shape[1] % (LINE * _PARTS)), value=8).view(len(q), -1, _PARTS, LINE).int()
    words = q[:, :, 0]
    for part in range(1, _PARTS):
        words = words | q[:, :, part] << (4 * part)
    return (words << 16 >> 16).to(torch.int16).flatten(1)
