"""Packs a model's matrices into 8 or 4 bits on a CPU, layer by layer as they are loaded.

It knows which matrices a model has, how many bits each gets, and whether our compiled code or one of `cpu_products`
computes with them. The embedding stays as it is, since its rows are read one by one; the output matrix has 8 bits also
where the layers have 4, as its error reaches the logits directly.
"""

import ctypes

import torch
from torch import nn

from engine.distributed.tensor_parallel import ColumnLinear, RowLinear
from engine.errors import ConfigError
from engine.layers.cpu_linear import Int4Linear, Int8Linear, Norm, byte_range, has_fast_int4
from engine.model.transformer import Block, RMSNorm, Transformer
from engine.runner.cpu.linear import NativeLinear


class CpuQuantizer:
    def __init__(self, quantize: str, library: ctypes.CDLL | None) -> None:
        if library is None and (byte_range() is None or (quantize == "int4" and not has_fast_int4())):
            raise ConfigError("--quantize", expected="none, on this processor", found=quantize)
        self._four_bits, self._library = quantize == "int4", library

    def block(self, block: Block) -> None:
        for linear in (block.wqkv, block.wo, block.w13, block.w2):
            if self._library is not None:
                _replace(linear, NativeLinear(self._library, linear.weight, 4 if self._four_bits else 8))
            elif self._four_bits and Int4Linear.fits(linear.weight):
                # What is added to a wider sum, or is input to the next product, need not be widened first.
                out = linear.weight.dtype if linear is block.wqkv else torch.bfloat16
                _replace(linear, Int4Linear(linear.weight, out))
            else:
                _replace(linear, Int8Linear(linear.weight))
        block.attention_norm.replacement = _norm(block.attention_norm)
        block.ffn_norm.replacement = _norm(block.ffn_norm)

    def output(self, model: Transformer) -> None:
        weight, library = model.output.weight, self._library
        _replace(model.output, Int8Linear(weight) if library is None else NativeLinear(library, weight, 8))


def _norm(norm: RMSNorm) -> Norm | None:
    return Norm(norm.weight, norm.eps) if norm.weight.dtype == torch.float32 else None


def _replace(linear: ColumnLinear | RowLinear, packed: nn.Module) -> None:
    linear.quantized = packed
    del linear.weight
