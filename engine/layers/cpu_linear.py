"""Products of float tokens with 8-bit or 4-bit weights on a CPU, through the kernels that torch brings.

Every result depends on its own token alone, to the bit: a reply must not change with the requests beside it. That
rules out the kernels that choose one scale for a whole batch of activations. Here each token has its own scale, and
the 8-bit products are summed exactly, in whole numbers.

It knows tensors and this machine's instructions, and nothing of models.
"""

from functools import cache

import torch
from torch import Tensor, nn

GROUP = 32  # columns that share a scale and a middle in 4-bit weights, as in GGUF's own 4-bit blocks
_CHUNK_ROWS = 4096  # rows converted at a time, which bounds what packing needs beside the two matrices
_EIGHT_BITS = (128, 127)  # activations as unsigned bytes: the byte that means 0, and how far values reach around it
_SEVEN_BITS = (64, 63)


@cache
def byte_range() -> tuple[int, int] | None:
    """How activations fit into bytes on this machine; None: this torch has no 8-bit products for it.

    Instructions before VNNI add pairs of products in 16 bits and clip them, silently. Seven bits always fit.
    """
    for zero, reach in (_EIGHT_BITS, _SEVEN_BITS):
        x = torch.full((2, 256), zero + reach, dtype=torch.uint8)
        x[1] = zero - reach
        rows = torch.full((64, 256), 127, dtype=torch.int8)
        rows[1::2] = -127
        try:
            got = _int8_product(x, zero, _prepack(rows), torch.ones(64), torch.zeros(64, dtype=torch.int64))
        except (AttributeError, RuntimeError):  # not in this build; not on this machine
            return None
        if torch.equal(got, (x.float() - zero) @ rows.float().T):
            return zero, reach
    return None


def has_fast_int8() -> bool:
    """Whether 8-bit products are quicker than 32-bit ones here: without VNNI a single token is not."""
    return byte_range() == _EIGHT_BITS


@cache
def has_fast_int4() -> bool:
    """Whether this torch has products with 4-bit weights for this machine's vector instructions."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False  # elsewhere they are slower than whole weights, or not there
    try:
        Int4Linear(torch.ones(64, 64))(torch.ones(1, 64))
    except (AttributeError, RuntimeError):
        return False
    return True


class Int8Linear(nn.Module):
    """y = x · Wᵀ with W in 8 bits, a scale for each of its rows, and x in 16 (or 14) bits, a scale for each token.

    x has two digits of a byte each, which go through the product as two rows: 8 bits are too few for the outliers in a
    Llama's activations, and twice the rows cost little, as the time goes into reading W.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        found = byte_range()
        if found is None:
            raise ValueError("this machine has no 8-bit products")
        self._zero, reach = found
        scale = weight.abs().amax(dim=1).float().clamp_min(1e-30) / 127
        rows = torch.empty(weight.shape, dtype=torch.int8)
        for at in range(0, len(weight), _CHUNK_ROWS):
            part = slice(at, at + _CHUNK_ROWS)
            rows[part] = (weight[part].float() / scale[part, None]).round_()
        base = 2 * self._zero  # of the two digits; both have the same zero
        self._reach = float(reach * (base + 1))
        self._packed, self._scale = _prepack(rows), scale / self._reach
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._middle = torch.tensor(self._zero * (base + 1) + 0.5)
        self._base, self._shifts = base, torch.tensor([[[0]], [[base.bit_length() - 1]]], dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        # A token of zeros divides 0 by 0; whatever bytes that gives are multiplied by its peak, 0, in the end. What is
        # not a number stays none, as it is in the peak.
        peak = wide.abs().amax(dim=-1, keepdim=True)
        whole = torch.add(self._middle, wide / peak, alpha=self._reach).to(torch.int32)  # cutting off rounds here
        if self._base == 256:  # the digits are the bytes that lie there
            digits = whole.view(torch.uint8).view(*x.shape, 4)[..., :2].permute(2, 0, 1)
        else:
            digits = ((whole >> self._shifts) & (self._base - 1)).to(torch.uint8)
        data = digits.reshape(-1, x.shape[-1])
        low, high = _int8_product(data, self._zero, self._packed, self._scale, self._zeros).view(2, len(x), -1)
        return torch.add(low, high, alpha=self._base).mul_(peak).to(x.dtype)


class Int4Linear(nn.Module):
    """y = x · Wᵀ with W in 4 bits, a scale and a middle for each group of columns; x, y and the scales in bfloat16."""

    def __init__(self, weight: Tensor, out_dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self._out = out_dtype
        rows, columns = weight.shape
        nibbles = torch.empty(rows, columns, dtype=torch.int32)
        scales = torch.empty(columns // GROUP, rows, 2, dtype=torch.bfloat16)
        for at in range(0, rows, _CHUNK_ROWS):
            part = slice(at, at + _CHUNK_ROWS)
            groups = weight[part].float().view(-1, columns // GROUP, GROUP)
            least, most = groups.aminmax(dim=-1, keepdim=True)
            # The kernel's numbers have few bits: the nibbles suit the rounded scale, the middle makes up for its error.
            scale = ((most - least) / 15).clamp_min(1e-30)
            chosen = ((groups - least) / scale).round_().clamp_(0, 15)
            scale = scale.bfloat16().float()
            middle = (groups - (chosen - 8) * scale).mean(dim=-1, keepdim=True)
            nibbles[part] = chosen.view(-1, columns).int()
            scales[:, part] = torch.cat((scale, middle), dim=-1).transpose(0, 1)
        self._packed, self._scales = torch._convert_weight_to_int4pack_for_cpu(nibbles, 1), scales

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """The kernel wants whole groups and whole blocks of rows."""
        return weight.shape[0] % 64 == 0 and weight.shape[1] % GROUP == 0

    def forward(self, x: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self._packed, GROUP, self._scales).to(self._out)


class Norm(nn.Module):
    """RMS norm in four operations: each costs more than its arithmetic when weights stream through the caches."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        root = len(weight) ** 0.5
        self._weight, self._floor = weight.float() * root, torch.tensor(eps**0.5 * root)

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return (x / torch.hypot(length, self._floor)).mul_(self._weight)


def _prepack(rows: Tensor) -> Tensor:
    packed: Tensor = torch.ops.onednn.qlinear_prepack(rows, None)
    return packed


def _int8_product(x: Tensor, zero: int, packed: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
    """(x - zero) · Wᵀ · scale in float32: bytes in, exact sums, one scale for each column of the result."""
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, zero, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return result
