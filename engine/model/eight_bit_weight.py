"""8-bit weights for GPUs, int8 or fp8 (e4m3): each row has one float32 scale. This module knows tensors, no kernels.

Layout: a row is a sequence of lines, each 32 words of 16 bits. A word packs 2 columns that are 32 apart: byte p of word
j in line l is column (l * 2 + p) * 32 + j. The last line is padded with zeros.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.quantized_weight import QuantizedWeight, row_chunks

LINE = 32  # words in a line
_PARTS = 2  # columns in a word
E4M3_MAX = 448.0
# What a row's largest weight may become: the leading digits that e4m3 has. One of them is right for a row that was
# e4m3 in a file, whatever its scale was, and then its codes are found again.
_LARGEST_CODES = (448.0, 416.0, 384.0, 352.0, 320.0, 288.0, 256.0, 240.0)


class EightBitWeight(QuantizedWeight):
    """w = row_scale * code. `words`: int16 [rows, lines * 32]. `scales`: float32 [rows]. `groups`: empty."""

    bits = 8
    code_dtype: ClassVar[torch.dtype]

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape = weight.shape
        rows, columns = weight.shape
        words = torch.empty(rows, num_lines(columns) * LINE, dtype=torch.int16, device=weight.device)
        scales = torch.empty(rows, device=weight.device)
        for chunk in row_chunks(weight):
            codes, scales[chunk] = self.quantize(weight[chunk])
            words[chunk] = pack_words(codes)
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)
        self.register_buffer("groups", torch.empty(rows, 0, dtype=torch.int32, device=weight.device))

    @property
    def fp8(self) -> bool:
        """Whether the codes are e4m3 instead of int8."""
        return self.code_dtype == torch.float8_e4m3fn

    @property
    def codes(self) -> Tensor:
        """The codes in the order of memory, `code_dtype` [rows, lines * 64]: a view of `words`."""
        return self.words.view(self.code_dtype)

    @staticmethod
    @abstractmethod
    def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight [n, columns] -> (codes [n, columns], scales float32 [n])."""

    def dequantize(self) -> Tensor:
        """The matrix in float32, [rows, columns]."""
        rows, columns = self.shape
        codes = self.codes.float().view(rows, -1, LINE, _PARTS).transpose(2, 3).reshape(rows, -1)
        return (codes * self.scales[:, None])[:, :columns]


class Int8Weight(EightBitWeight):
    """Codes -127 … 127."""

    code_dtype = torch.int8

    @staticmethod
    def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Symmetric, the largest magnitude of a row at 127."""
        w = weight.float()
        scales = w.abs().amax(1).clamp_min(1e-12) / 127
        return (w / scales[:, None]).round_().clamp_(-127, 127).to(torch.int8), scales


class Fp8Weight(EightBitWeight):
    """Codes are e4m3: 4 bits of exponent, 3 of fraction, up to 448."""

    code_dtype = torch.float8_e4m3fn

    @staticmethod
    def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
        """The scale with the smallest squared error among those that give a row's largest weight a code of its own.

        It is then fitted to the codes by least squares.
        """
        w = weight.float()
        largest = w.abs().amax(1, keepdim=True).clamp_min(1e-12)
        best = torch.full_like(largest, torch.inf)
        codes, scales = torch.zeros_like(w), torch.ones_like(largest)
        for code in _LARGEST_CODES:
            scale = largest / code
            rounded = (w / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float()
            error = (rounded * scale).sub_(w).square_().sum(1, keepdim=True)
            better = error < best
            best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
            codes = torch.where(better, rounded, codes)
        fitted = (codes * w).sum(1) / codes.square().sum(1).clamp_min(1e-30)
        return codes.to(torch.float8_e4m3fn), torch.where(fitted > 0, fitted, scales.flatten())


def num_lines(columns: int) -> int:
    """Lines of a row."""
    return -(-columns // (LINE * _PARTS))


def eight_bit_bytes(rows: int, columns: int) -> int:
    """Bytes of an `EightBitWeight`'s buffers."""
    return rows * (4 + num_lines(columns) * LINE * 2)


def pack_words(codes: Tensor) -> Tensor:
    """Codes of 8 bits [n, columns] -> int16 words [n, lines * LINE]."""
    columns = codes.shape[1]
    lines = F.pad(codes.view(torch.int8), (0, -columns % (LINE * _PARTS))).view(len(codes), -1, _PARTS, LINE)
    return lines.transpose(2, 3).contiguous().view(torch.int16).flatten(1)
