"""8-bit weights for GPUs: each row has one float32 scale. This module knows tensors, no kernels.

Layout: a row is a sequence of lines, each 32 words of 16 bits. A word packs 2 columns that are 32 apart: byte p of word
j in line l is column (l * 2 + p) * 32 + j. The last line is padded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.quantized_weight import QuantizedWeight, row_chunks

LINE = 32  # words in a line
_PARTS = 2  # columns in a word


class Int8Weight(QuantizedWeight):
    """w = row_scale * (byte - 128). `words`: int16 [rows, lines * 32]. `scales`: float32 [rows]. `groups`: empty."""

    bits = 8

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape = weight.shape
        rows, columns = weight.shape
        words = torch.empty(rows, num_lines(columns) * LINE, dtype=torch.int16, device=weight.device)
        scales = torch.empty(rows, device=weight.device)
        for chunk in row_chunks(weight):
            words[chunk], scales[chunk] = quantize_int8(weight[chunk])
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)
        self.register_buffer("groups", torch.empty(rows, 0, dtype=torch.int32, device=weight.device))

    def dequantize(self) -> Tensor:
        """The matrix in float32, [rows, columns]."""
        rows, columns = self.shape
        shifts = torch.arange(_PARTS, device=self.words.device, dtype=torch.int32)[:, None] * 8
        codes = (self.words.view(rows, -1, 1, LINE).int() >> shifts) & 255
        return ((codes - 128).float().view(rows, -1) * self.scales[:, None])[:, :columns]


def num_lines(columns: int) -> int:
    """Lines of a row."""
    return -(-columns // (LINE * _PARTS))


def int8_bytes(rows: int, columns: int) -> int:
    """Bytes of an `Int8Weight`'s buffers."""
    return rows * (4 + num_lines(columns) * LINE * 2)


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric, the largest magnitude of a row at 127: weight [n, columns] -> (words, scales)."""
    w = weight.float()
    scales = w.abs().amax(1).clamp_min(1e-12) / 127
    return _pack_words((w / scales[:, None]).round_().clamp_(-127, 127) + 128), scales


def _pack_words(q: Tensor) -> Tensor:
    """Bytes [n, columns] -> int16 words [n, lines * LINE]; padding stands for weight 0."""
    q = F.pad(q, (0, -q.shape[1] % (LINE * _PARTS)), value=128).view(len(q), -1, _PARTS, LINE).int()
    words = q[:, :, 0] | q[:, :, 1] << 8
    return (words << 16 >> 16).to(torch.int16).flatten(1)
