"""What all formats of quantized weights on GPUs have in common (weight-only: activations keep their dtype).

It knows no format and no kernels: `Int8Weight` and `Int4Weight` say what a format's buffers hold.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK_WEIGHTS = 1 << 23  # weights quantized at a time, which bounds the memory beside the two matrices


class QuantizedWeight(nn.Module):
    """y = x W^T with W [rows, columns] in `bits` bits: `words` of packed weights and the `scales` and `groups` to them.

    A buffer that a format has no use for is empty.
    """

    bits: int
    shape: torch.Size
    words: Tensor
    scales: Tensor
    groups: Tensor

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The matrix in float32, [rows, columns], in plain torch."""

    def forward(self, x: Tensor) -> Tensor:
        """x [T, columns] -> [T, rows], in plain torch."""
        return F.linear(x, self.dequantize().to(x.dtype))


def row_chunks(weight: Tensor) -> list[slice]:
    """Runs of rows of weight [rows, columns] that are quantized at a time; all but the last are a multiple of 8."""
    rows, columns = weight.shape
    step = max(8, _CHUNK_WEIGHTS // columns // 8 * 8)
    return [slice(start, start + step) for start in range(0, rows, step)]
