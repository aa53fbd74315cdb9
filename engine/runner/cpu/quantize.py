"""Replaces a model's weights by 8-bit or 4-bit ones on a CPU, layer by layer as they are loaded.

It knows which matrices a model has, how many bits each gets, and whether the compiled code (`NativeLinear`) or torch
(`engine.layers.cpu_linear`) computes with them. The embedding is not quantized, since it is read a row at a time. The
output matrix has 8 bits even where the layers have 4: its error goes straight into the logits.
"""

import ctypes

import torch
from torch import nn

from engine.distributed.tensor_parallel import ColumnLinear, RowLinear
from engine.errors import ConfigError
from engine.layers.cpu_linear import Int4Linear, Int8Linear, Norm, byte_range, has_fast_int4
from engine.model.transformer import Block, Transformer
from engine.runner.cpu.huge_pages import HugePageArena
from engine.runner.cpu.linear import NativeLinear


class CpuQuantizer:
    """Quantizes a model to `quantize`, "int8" or "int4"; `library` is the compiled code, None for torch's kernels.

    Raises ConfigError where neither can compute with such weights.
    """

    def __init__(self, quantize: str, library: ctypes.CDLL | None) -> None:
        if library is None and (byte_range() is None or (quantize == "int4" and not has_fast_int4())):
            raise ConfigError("--quantize", expected="none, on this processor", found=quantize)
        self._int4, self._library, self._arena = quantize == "int4", library, HugePageArena()

    def block(self, block: Block) -> None:
        """Quantize one layer's matrices, and replace its norms by faster ones."""
        dtype = block.wqkv.weight.dtype
        for linear in block.linears:
            if self._library is not None:
                _replace(linear, NativeLinear(self._library, linear.weight, 4 if self._int4 else 8, self._arena))
            elif self._int4 and Int4Linear.fits(linear.weight):
                # Only attention needs wqkv's result in the model's dtype. The others are added to the float32 residual
                # stream or quantized again, so they can stay in bfloat16.
                out = linear.weight.dtype if linear is block.wqkv else torch.bfloat16
                _replace(linear, Int4Linear(linear.weight, out))
            else:
                _replace(linear, Int8Linear(linear.weight))
        for norm in (block.attention_norm, block.ffn_norm, block.post_attention_norm, block.post_ffn_norm):
            if norm is not None and dtype == torch.float32:
                norm.replacement = Norm(norm.weight, norm.eps)

    def output(self, model: Transformer) -> None:
        """Quantize the output matrix to 8 bits."""
        weight, library = model.output.weight, self._library
        _replace(model.output, Int8Linear(weight) if library is None else NativeLinear(library, weight, 8, self._arena))


def _replace(linear: ColumnLinear | RowLinear, quantized: nn.Module) -> None:
    linear.quantized = quantized
    del linear.weight
