"""Products with 8-bit or 4-bit weights by our compiled code, as modules that stand in for a linear layer's product.

Weights lie as the code reads them: tiles of 16 rows, in each the groups of 32 columns in order, in each the bytes and
then the scales in 16 bits. Tokens are computed in 16 bits. It knows one matrix, and nothing of models.
"""

import ctypes
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE, GROUP = 16, 32
_BLOCK = 4096  # rows packed at a time, which bounds what packing needs
_TOP = 13  # the largest weight has about this many bits, so that scales use a half's range


class Matrix(ctypes.Structure):
    """As in products.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("factor", ctypes.c_float),
    )


class NativeLinear(nn.Module):
    """y = x · Wᵀ in 32 bits. Each token's result is the same to the bit whatever tokens are beside it."""

    def __init__(self, library: ctypes.CDLL, weight: Tensor, bits: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        least, most = weight.aminmax()
        peak = max(-float(least), float(most))
        factor = 2.0 ** (math.frexp(peak)[1] - _TOP) if math.isfinite(peak) and peak > 0 else 1.0
        pack = _pack4 if bits == 4 else _pack8
        parts = [pack(_padded(weight[at : at + _BLOCK]).float() / factor) for at in range(0, rows, _BLOCK)]
        self._data = torch.cat(parts)
        self._library = library
        self.matrix = Matrix(self._data.data_ptr(), rows, columns, bits, factor)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float().contiguous()
        y = torch.empty(len(x), self.matrix.rows)
        self._library.guildllama_product(
            ctypes.byref(self.matrix),
            ctypes.c_int32(len(x)),
            ctypes.c_void_p(wide.data_ptr()),
            ctypes.c_void_p(y.data_ptr()),
            ctypes.c_int32(torch.get_num_threads()),
        )
        return y.to(x.dtype)


def _padded(weight: Tensor) -> Tensor:
    """[tiles, 16, groups, 32], with zeros where the matrix does not come out even."""
    rows, columns = weight.shape
    whole = F.pad(weight, (0, -columns % GROUP, 0, -rows % TILE))
    return whole.view(-1, TILE, whole.shape[1] // GROUP, GROUP)


def _pack8(weight: Tensor) -> Tensor:
    scale = (weight.abs().amax(dim=-1, keepdim=True) / 127).half()
    chosen = (weight / scale.float().clamp_min(1e-12)).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
    tiles, _, groups, _ = weight.shape
    data = chosen.view(tiles, TILE, groups, 8, 4).permute(0, 2, 3, 1, 4).reshape(tiles, groups, -1)
    return torch.cat((data, _numbers(scale)), dim=-1)


def _pack4(weight: Tensor) -> Tensor:
    least, most = weight.aminmax(dim=-1, keepdim=True)
    scale = (most - least) / 15
    chosen = ((weight - least) / scale.clamp_min(1e-12)).round_().clamp_(0, 15)
    short = scale.half()
    least = (weight - chosen * short.float()).mean(dim=-1, keepdim=True).half()  # makes up for the scale's rounding
    tiles, _, groups, _ = weight.shape
    columns = chosen.to(torch.uint8).view(tiles, TILE, groups, 4, 2, 4).permute(4, 0, 2, 3, 1, 5)
    data = (columns[0] | columns[1] << 4).reshape(tiles, groups, -1)
    return torch.cat((data, _numbers(short), _numbers(least)), dim=-1)


def _numbers(halves: Tensor) -> Tensor:
    """[tiles, 16, groups, 1] -> their bytes, [tiles, groups, 32]."""
    return halves.squeeze(-1).transpose(1, 2).contiguous().view(torch.uint8)
