"""Linear layers with 8-bit or 4-bit weights, computed by the compiled code.

The weights are packed as csrc/matrix.h reads them: tiles of 16 rows; in a tile, groups of 32 columns in order; in a
group, the weights' bytes, then the rows' group scales as float16, and with 4 bits their group minimums, unless code 8
stands for zero everywhere. Activations are quantized to 16 bits. It knows one matrix, and nothing of models.
"""

import ctypes
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.lattice import find_float16_grid, find_steps
from engine.runner.cpu.huge_pages import HugePageArena

TILE, GROUP = 16, 32  # rows of a tile, columns of a group; as in matrix.h
_WEIGHTS_AT_ONCE = 1 << 19  # packed at a time, so that what packing needs stays in the cache
_MAX_EXPONENT = 13  # the largest weight is scaled to just below 2**13, so that the scales use float16's range


class Matrix(ctypes.Structure):
    """`Matrix` of matrix.h: the packed weights, and the scale of the whole matrix."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("has_minimums", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class NativeLinear(nn.Module):
    """y = x · Wᵀ, accumulated in float32. A token's result does not depend, to the bit, on the tokens beside it."""

    def __init__(self, library: ctypes.CDLL, weight: Tensor, bits: int, arena: HugePageArena | None = None) -> None:
        """Pack `weight` [rows, columns] into `bits` (4 or 8) bits, in memory of `arena`."""
        super().__init__()
        rows, columns = weight.shape
        low, high = weight.aminmax()
        peak = max(-float(low), float(high))
        scale = 2.0 ** (math.frexp(peak)[1] - _MAX_EXPONENT) if math.isfinite(peak) and peak > 0 else 1.0

        rows_at_once = max(1, _WEIGHTS_AT_ONCE // (columns * TILE)) * TILE

        def pieces() -> Iterator[Tensor]:
            return (_tiles(part).float() / scale for part in torch.split(weight, rows_at_once))

        centred = _pack_centred_int4(pieces()) if bits == 4 else None
        has_minimums = bits == 4 and centred is None
        pack = _pack_int4 if bits == 4 else _pack_int8
        packed = [pack(piece) for piece in pieces()] if centred is None else centred
        self._data = (arena or HugePageArena()).empty(sum(piece.numel() for piece in packed))
        torch.cat([piece.flatten() for piece in packed], out=self._data)
        self._library = library
        self.matrix = Matrix(self._data.data_ptr(), rows, columns, bits, has_minimums, scale)

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, columns] -> [tokens, rows], in x's dtype."""
        x32 = x.float().contiguous()
        y = torch.empty(len(x), self.matrix.rows)
        self._library.guildllama_linear(
            ctypes.byref(self.matrix),
            ctypes.c_int32(len(x)),
            ctypes.c_void_p(x32.data_ptr()),
            ctypes.c_void_p(y.data_ptr()),
            ctypes.c_int32(torch.get_num_threads()),
        )
        return y.to(x.dtype)


def _tiles(weight: Tensor) -> Tensor:
    """[rows, columns] -> [tiles, TILE, groups, GROUP], padded with zeros."""
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % GROUP, 0, -rows % TILE))
    return padded.view(-1, TILE, padded.shape[1] // GROUP, GROUP)


def _pack_int8(weight: Tensor) -> Tensor:
    """Symmetric: weight = scale · (byte − 128)."""
    scale = (weight.abs().amax(dim=-1, keepdim=True) / 127).half()
    codes = (weight / scale.float().clamp_min(1e-12)).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
    tiles, _, groups, _ = weight.shape
    data = codes.view(tiles, TILE, groups, 8, 4).permute(0, 2, 3, 1, 4).reshape(tiles, groups, -1)
    return torch.cat((data, _half_bytes(scale)), dim=-1)


def _pack_centred_int4(pieces: Iterator[Tensor]) -> list[Tensor] | None:
    """weight = scale · (nibble − 8), where all weights were such codes with a float16 step; None where one was not."""
    packed = []
    for weight in pieces:
        step = find_steps(weight)
        codes = (weight / step.clamp_min(1e-38)).round_()
        low, high = codes.aminmax()
        if low < -8 or high > 7 or not torch.equal(codes * step.half().float(), weight):
            return None
        packed.append(torch.cat((_nibbles(codes + 8), _half_bytes(step)), dim=-1))
    return packed


def _pack_int4(weight: Tensor) -> Tensor:
    """Asymmetric: weight = scale · nibble + minimum. Weights that were 4-bit codes keep theirs."""
    low, high = weight.aminmax(dim=-1, keepdim=True)
    step, minimum = find_float16_grid(weight)
    scale, low = torch.where(step > 0, step, (high - low) / 15), torch.where(step > 0, minimum, low)
    codes = ((weight - low) / scale.clamp_min(1e-12)).round_().clamp_(0, 15)
    # The minimum makes up for the scale's rounding.
    minimum = (weight - codes * scale.half().float()).mean(dim=-1, keepdim=True)
    return torch.cat((_nibbles(codes), _half_bytes(scale), _half_bytes(minimum)), dim=-1)


def _nibbles(codes: Tensor) -> Tensor:
    """Codes 0 … 15 [tiles, TILE, groups, GROUP] -> bytes [tiles, groups, TILE · GROUP / 2]."""
    tiles, _, groups, _ = codes.shape
    columns = codes.to(torch.uint8).view(tiles, TILE, groups, 4, 2, 4).permute(4, 0, 2, 3, 1, 5)
    return (columns[0] | columns[1] << 4).reshape(tiles, groups, -1)


def _half_bytes(values: Tensor) -> Tensor:
    """[tiles, TILE, groups, 1] -> the bytes of their float16, [tiles, groups, 2 · TILE]."""
    return values.half().squeeze(-1).transpose(1, 2).contiguous().view(torch.uint8)
