"""Weights in 8 bits on a GPU: half the bytes to hold and to read, one scale for each output row, activations untouched.

A layer's matrix is replaced as soon as it is loaded, so the whole model is never held in full. Products of few tokens
read the 8-bit matrix itself; for many, where arithmetic is the cost, it is unfolded into a shared scratch first. What
it costs in accuracy stands in docs/performance.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model import Block


class Packed8(nn.Module):
    """y = x · (q · scale)ᵀ with q int8 [rows, columns] and a float32 scale for each row."""

    q: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", row_scales(weight))
        # Row blocks bound what the conversion needs beside the two matrices.
        q = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        for at in range(0, len(weight), 4096):
            part = slice(at, at + 4096)
            q[part] = (weight[part].float() / self.scale[part, None]).round_().clamp_(-127, 127)
        self.register_buffer("q", q)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.q.float() * self.scale[:, None]).to(x.dtype))


def row_scales(weight: Tensor) -> Tensor:
    return weight.abs().amax(1).float().clamp_min(1e-12) / 127


def pack_linear(layer: nn.Module) -> None:
    """Replace the weight of a ColumnLinear or RowLinear by packed ones."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    layer.packed = Packed8(weight)
    layer.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype, device=weight.device), requires_grad=False)


def pack_block(block: Block) -> None:
    for layer in (block.wqkv, block.wo, block.w13, block.w2):
        pack_linear(layer)
