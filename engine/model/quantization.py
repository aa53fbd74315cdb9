"""Quantizes the matrices of a model on a GPU, each as soon as its layer is loaded.

So the full model is never in memory unquantized. Matrix products of few tokens read the quantized weights; for many
tokens, which are bound by arithmetic, the matrix is dequantized into a shared scratch buffer first. It knows layers and
which format has how many bits; `Int8Weight`, `Fp8Weight` and `Int4Weight` know the formats.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.model.eight_bit_weight import Fp8Weight, Int8Weight, eight_bit_bytes
from engine.model.int4_weight import Int4Weight, int4_bytes
from engine.model.quantized_weight import QuantizedWeight
from engine.model.transformer import Block


def quantized_weight(weight: Tensor, bits: int, *, fp8: bool = False) -> QuantizedWeight:
    """weight [rows, columns] in the format of `bits` bits; `fp8`: those of 8 bits are e4m3 instead of int8."""
    if bits == 4:
        return Int4Weight(weight)
    return Fp8Weight(weight) if fp8 else Int8Weight(weight)


def quantized_bytes(rows: int, columns: int, bits: int) -> int:
    """Bytes of a `QuantizedWeight`'s buffers."""
    return (int4_bytes if bits == 4 else eight_bit_bytes)(rows, columns)


def quantize_linear(layer: nn.Module, bits: int, *, fp8: bool = False) -> None:
    """Quantize a ColumnLinear's or RowLinear's weight, and free the original."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    layer.quantized = quantized_weight(weight, bits, fp8=fp8)
    layer.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype, device=weight.device), requires_grad=False)


def quantize_block(block: Block, bits: int, *, fp8: bool = False) -> None:
    """Quantize the linear layers of a transformer block; see `quantized_weight`."""
    for layer in block.linears:
        quantize_linear(layer, bits, fp8=fp8)
