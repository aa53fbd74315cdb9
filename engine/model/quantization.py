"""int8 and int4 weights for GPUs (weight-only quantization: activations keep their dtype).

Each output row has one float32 scale. With 4 bits, each group of 32 columns of a row also has a scale and a zero point
of 8 bits each (4.5 bits a weight), chosen for the smallest squared error. A layer is quantized as soon as it is loaded,
so the full model is never in memory. Matrix products of few tokens read the quantized weights; for many tokens, which
are bound by arithmetic, the matrix is dequantized into a shared scratch buffer first. docs/performance.md has the loss
of accuracy. This module knows tensors and layers, and no kernels.

Layout: a row is a sequence of lines, each 32 words of 16 bits. A word packs P = 16 / bits columns that are 32 apart:
bits [p * bits, (p + 1) * bits) of word j in line l are column (l * P + p) * 32 + j. So unpacking part p of a line gives
32 consecutive columns, which with 4 bits are one group. The last line is padded.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.lattice import find_steps
from engine.model.transformer import Block

LINE = 32  # words in a line; with 4 bits also the columns in a group
ZERO_POINT_UNIT = 16  # zero points are stored in units of 16 row scales, group scales in units of one
RANGE_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # fractions of a group's range that are tried
# Weights that were decoded from 4-bit codes are rounded to their dtype. So one may be off a multiple of its step by
# this part of itself: half a unit in the last place, and as much for the step, which is taken from such weights.
_ROUNDING = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
_CHUNK_WEIGHTS = 1 << 23  # weights quantized at a time, which bounds the memory beside the two matrices


class QuantizedWeight(nn.Module):
    """y = x W^T with W [rows, columns] in `bits` bits.

    `words`: int16 [rows, lines * 32]. `scales`: float32 [rows]. `groups`: int32 [rows, lines * 2] with 4 bits, else
    empty; entry 2l + h holds the groups of parts 2h (low 16 bits) and 2h + 1 (high 16 bits) of line l, each as
    group_scale (0 … 255) in the low byte and zero_point (-128 … 127) in the high byte.

    8 bits: w = row_scale * (byte - 128).
    4 bits: w = row_scale * (group_scale * (nibble - 8) + 16 * zero_point).
    """

    words: Tensor
    scales: Tensor
    groups: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.shape = bits, weight.shape
        rows, columns = weight.shape
        lines, device = num_lines(columns, bits), weight.device
        words = torch.empty(rows, lines * LINE, dtype=torch.int16, device=device)
        groups = torch.empty(rows, 2 * lines if bits == 4 else 0, dtype=torch.int32, device=device)
        scales = torch.empty(rows, device=device)
        step = max(1, _CHUNK_WEIGHTS // columns)
        for start in range(0, rows, step):
            chunk = slice(start, start + step)
            if bits == 4:
                words[chunk], scales[chunk], groups[chunk] = quantize_int4(weight[chunk])
            else:
                words[chunk], scales[chunk] = quantize_int8(weight[chunk])
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)
        self.register_buffer("groups", groups)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, columns] -> [T, rows], in plain torch."""
        return F.linear(x, dequantize(self).to(x.dtype))


def num_lines(columns: int, bits: int) -> int:
    """Lines of a row."""
    return -(-columns // (LINE * 16 // bits))


def quantized_bytes(rows: int, columns: int, bits: int) -> int:
    """Bytes of a `QuantizedWeight`'s buffers."""
    return rows * (4 + num_lines(columns, bits) * (LINE * 2 + (8 if bits == 4 else 0)))


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric, the largest magnitude of a row at 127: weight [n, columns] -> (words, scales)."""
    w = weight.float()
    scales = w.abs().amax(1).clamp_min(1e-12) / 127
    return _pack_words((w / scales[:, None]).round_().clamp_(-127, 127) + 128, 8), scales


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
    return _pack_words(best_codes.view(rows, -1) + 8, 4), scales.flatten(), pairs[..., 0] | pairs[..., 1] << 16


def _candidates(low: Tensor, high: Tensor, step: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The group scales that are tried, each with what the middle code stands for."""
    for fraction in RANGE_FACTORS:
        group_scale = (high - low) * (fraction / 15)
        yield group_scale, (low + high + group_scale) / 2
    if bool((step > 0).any()):
        symmetric = (low > -8.5 * step) & (high < 7.5 * step)
        lowest = (low / torch.where(step > 0, step, 1.0)).round_() * step
        yield step, torch.where(symmetric, 0.0, lowest + 8 * step)


def dequantize(weight: QuantizedWeight) -> Tensor:
    """The matrix in float32, [rows, columns]."""
    bits, (rows, columns) = weight.bits, weight.shape
    shifts = torch.arange(16 // bits, device=weight.words.device, dtype=torch.int32)[:, None] * bits
    q = (weight.words.view(rows, -1, 1, LINE).int() >> shifts) & ((1 << bits) - 1)
    if bits == 8:
        w = (q - 128).float()
    else:
        groups = torch.stack((weight.groups, weight.groups >> 16), -1).view(rows, -1, 4, 1)
        group_scale, zero_point = groups & 255, groups << 16 >> 24
        w = ((q - 8) * group_scale + zero_point * ZERO_POINT_UNIT).float()
    return (w.view(rows, -1) * weight.scales[:, None])[:, :columns]


def quantize_linear(layer: nn.Module, bits: int) -> None:
    """Quantize a ColumnLinear's or RowLinear's weight, and free the original."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    layer.quantized = QuantizedWeight(weight, bits)
    layer.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype, device=weight.device), requires_grad=False)


def quantize_block(block: Block, bits: int) -> None:
    """Quantize the linear layers of a transformer block."""
    for layer in block.linears:
        quantize_linear(layer, bits)


def _round_to_codes(w: Tensor, group_scale: Tensor, offset: Tensor) -> Tensor:
    """The nearest nibbles minus 8 (-8 … 7) for w = group_scale * code + offset."""
    return ((w - offset) / torch.where(group_scale == 0, 1.0, group_scale)).round_().clamp_(-8, 7)


def _pack_words(q: Tensor, bits: int) -> Tensor:
    """Unsigned numbers of `bits` bits [n, columns] -> int16 words [n, lines * LINE]; padding stands for weight 0."""
    parts = 16 // bits
    q = F.pad(q, (0, -q.shape[1] % (LINE * parts)), value=1 << (bits - 1)).view(len(q), -1, parts, LINE).int()
    words = q[:, :, 0]
    for part in range(1, parts):
        words = words | q[:, :, part] << (bits * part)
    return (words << 16 >> 16).to(torch.int16).flatten(1)
