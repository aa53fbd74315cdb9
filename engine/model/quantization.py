"""Weights in 8 or 4 bits on a GPU: fewer bytes to hold and to read, activations untouched.

A float scale for each output row. With 4 bits, also a factor and a middle for every 32 columns of it, in 8 bits each
(4.5 bits a weight), chosen for the least squared error. A layer's matrix is replaced as soon as it is loaded, so the
whole model is never held in full. Products of few tokens read the packed matrix itself; for many, where arithmetic is
the cost, it is unfolded into a shared scratch first. What it costs in accuracy stands in docs/performance.md.

Packed, a row is lines of 32 words of 16 bits. A word holds 2 or 4 columns, the parts, 32 apart: part p of word j in
line l is column (l · parts + p) · 32 + j. So a kernel that takes a line's words apart meets whole runs of the input,
and with 4 bits each part of a line is one group. It knows tensors and layers, and no kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model.transformer import Block

LINE = 32  # words of 16 bits; also the columns that share a factor and a middle in 4 bits
RANGE_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # shares of a group's range that are tried
ZERO_POINT_UNIT = 16  # a middle counts in so many of the row's scales, a factor in one
_BLOCK = 1 << 23  # weights converted at a time: bounds what packing needs beside the two matrices


class QuantizedWeight(nn.Module):
    """y = x · Wᵀ with W in `bits` bits: words int16 [rows, lines · LINE], scales float32 [rows].

    8 bits: a weight is scale · (byte − 128). 4 bits: scale · (factor · (nibble − 8) + MIDDLE · middle), and `groups`,
    int32 [rows, lines · 2], holds factor (0 … 255) and middle (−128 … 127) of a part in its low or high half.
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
        step = max(1, _BLOCK // columns)
        for at in range(0, rows, step):
            part = slice(at, at + step)
            if bits == 4:
                words[part], scales[part], groups[part] = quantize_int4(weight[part])
            else:
                words[part], scales[part] = quantize_int8(weight[part])
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)
        self.register_buffer("groups", groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, dequantize(self).to(x.dtype))


def num_lines(columns: int, bits: int) -> int:
    return -(-columns // (LINE * 16 // bits))


def quantized_bytes(rows: int, columns: int, bits: int) -> int:
    return rows * (4 + num_lines(columns, bits) * (LINE * 2 + (8 if bits == 4 else 0)))


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(words, scales) of some rows."""
    wide = weight.float()
    scales = wide.abs().amax(1).clamp_min(1e-12) / 127
    return _words((wide / scales[:, None]).round_().clamp_(-127, 127) + 128, 8), scales


def quantize_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(words, scales, groups) of some rows. Of several shares of a group's range, each fitted to the group by least
    squares, the one with the smallest squared error is kept: outliers are clipped where that serves the others."""
    rows, columns = weight.shape
    wide = F.pad(weight.float(), (0, -columns % (LINE * 4))).view(rows, -1, LINE)
    low, high = wide.amin(-1, keepdim=True), wide.amax(-1, keepdim=True)
    # Not below what the middles need: a group may lie on one side of zero.
    scales = torch.maximum((high - low) / (15 * 255), (high + low).abs() / (2 * ZERO_POINT_UNIT * 120)).amax(
        1, keepdim=True
    )
    scales = scales.clamp_min_(1e-12)
    wide, low, high = wide / scales, low / scales, high / scales
    mean = wide.mean(-1, keepdim=True)
    least, best = torch.full_like(mean, torch.inf), torch.zeros_like(wide)
    codes = torch.zeros_like(mean, dtype=torch.int32)
    for share in RANGE_FACTORS:
        factor = (high - low) * (share / 15)
        q = _nibbles(wide, factor, (low + high + factor) / 2)
        off = q - (at := q.mean(-1, keepdim=True))
        factor = (off * (wide - mean)).sum(-1, keepdim=True) / off.square().sum(-1, keepdim=True).clamp_min_(1e-9)
        factor = factor.round_().clamp_(0, 255)
        middle = ((mean - factor * at) / ZERO_POINT_UNIT).round_().clamp_(-128, 127)
        q = _nibbles(wide, factor, middle * ZERO_POINT_UNIT)
        error = (q * factor).add_(middle * ZERO_POINT_UNIT).sub_(wide).square_().sum(-1, keepdim=True)
        better = error < least
        least, best = torch.where(better, error, least), torch.where(better, q, best)
        codes = torch.where(better, factor.int() | (middle.int() & 255) << 8, codes)
    pairs = codes.view(rows, -1, 2)
    return _words(best.view(rows, -1) + 8, 4), scales.flatten(), pairs[..., 0] | pairs[..., 1] << 16


def dequantize(packed: QuantizedWeight) -> Tensor:
    """The matrix in 32 bits."""
    bits, (rows, columns) = packed.bits, packed.shape
    shifts = torch.arange(16 // bits, device=packed.words.device, dtype=torch.int32)[:, None] * bits
    q = (packed.words.view(rows, -1, 1, LINE).int() >> shifts) & ((1 << bits) - 1)
    if bits == 8:
        wide = (q - 128).float()
    else:
        codes = torch.stack((packed.groups, packed.groups >> 16), -1).view(rows, -1, 4, 1)
        wide = ((q - 8) * (codes & 255) + (codes << 16 >> 24) * ZERO_POINT_UNIT).float()
    return (wide.view(rows, -1) * packed.scales[:, None])[:, :columns]


def quantize_linear(layer: nn.Module, bits: int) -> None:
    """Replace the weight of a ColumnLinear or RowLinear by a packed one."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    layer.quantized = QuantizedWeight(weight, bits)
    layer.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype, device=weight.device), requires_grad=False)


def quantize_block(block: Block, bits: int) -> None:
    for layer in (block.wqkv, block.wo, block.w13, block.w2):
        quantize_linear(layer, bits)


def _nibbles(x: Tensor, factor: Tensor, middle: Tensor) -> Tensor:
    return ((x - middle) / torch.where(factor == 0, 1.0, factor)).round_().clamp_(-8, 7)


def _words(q: Tensor, bits: int) -> Tensor:
    """Whole numbers of `bits` bits [rows, columns], the last line filled up, as words."""
    parts = 16 // bits
    q = F.pad(q, (0, -q.shape[1] % (LINE * parts)), value=1 << (bits - 1)).view(len(q), -1, parts, LINE).int()
    words = q[:, :, 0]
    for part in range(1, parts):
        words = words | q[:, :, part] << (bits * part)
    return (words << 16 >> 16).to(torch.int16).flatten(1)
