"""Quantizes the matrices of a model on a GPU, each as soon as its layer is loaded.

So the full model is never in memory unquantized. Products read the quantized weights, but for many tokens, which are
bound by arithmetic, 8-bit matrices are dequantized into a shared scratch buffer first. It knows layers and which format
has how many bits; `Int8Weight`, `Fp8Weight` and `Int4Weight` know the formats.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.model.eight_bit_weight import Fp8Weight, Int8Weight, eight_bit_bytes
from engine.model.int4_groups import were_codes
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


def quantize_block(block: Block, bits: int, *, fp8: bool = False, mixed: bool = False) -> None:
    """Quantize the linear layers of a transformer block; see `quantized_weight`.

    `mixed`: the weights are those of a file that holds some matrices in 4 bits and others in more. The others get 8.
    """
    for layers in ((block.wqkv,), (block.wo,), *zip(*block.feed_forwards, strict=True)):
        wide = bits == 4 and mixed and not were_all_codes([layer.weight for layer in layers])
        for layer in layers:
            quantize_linear(layer, 8 if wide else bits, fp8=fp8)


def were_all_codes(weights: Sequence[Tensor]) -> bool:
    """Whether all weights, the same matrix of all experts or just one, were 4-bit codes: experts have equal formats."""
    return all(were_codes(weight) for weight in weights)


def has_wider_matrices(quantization: str | None) -> bool:
    """Whether a file with these block types (`ModelSpec.quantization`) holds some of its matrices in 5 to 8 bits."""
    return any(name.startswith(("Q5_", "Q6_", "Q8_")) for name in (quantization or "").split("+"))
