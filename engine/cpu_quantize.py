"""Packs a model's matrices into 8 or 4 bits on a CPU, layer by layer as they are loaded.

It knows which matrices a model has and which of `cpu_products` suits each. The embedding stays as it is, since its
rows are read one by one; the output matrix has 8 bits also where the layers have 4, as its error reaches the logits
directly.
"""

from torch import nn

from engine.cpu_products import Packed4, Packed8, byte_range, has_nibbles
from engine.errors import ConfigError
from engine.model import Block, Transformer
from engine.parallel import ColumnLinear, RowLinear


class CpuPacker:
    def __init__(self, quantize: str) -> None:
        if byte_range() is None or (quantize == "int4" and not has_nibbles()):
            raise ConfigError("--quantize", expected="none, on this processor", found=quantize)
        self._four_bits = quantize == "int4"

    def block(self, block: Block) -> None:
        for linear in (block.wqkv, block.wo, block.w13, block.w2):
            four_bits = self._four_bits and Packed4.fits(linear.weight)
            _replace(linear, Packed4(linear.weight) if four_bits else Packed8(linear.weight))

    def output(self, model: Transformer) -> None:
        _replace(model.output, Packed8(model.output.weight))


def _replace(linear: ColumnLinear | RowLinear, packed: nn.Module) -> None:
    linear.packed = packed
    del linear.weight
