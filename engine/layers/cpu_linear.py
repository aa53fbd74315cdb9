"""Linear layers with int8 or int4 weights on a CPU, through torch's own kernels.

A token's result must not depend on the batch, bit for bit, so that a reply does not change with the other requests.
Kernels that choose one activation scale for the whole batch are therefore ruled out: here each token has its own scale,
and int8 products are summed exactly, in integers.

It knows tensors and this machine's instruction set, and nothing of models.
"""

from functools import cache

import torch
from torch import Tensor, nn

GROUP = 32  # columns that share a scale and a zero point in int4 weights, as in GGML's 4-bit blocks
_CHUNK_ROWS = 4096  # rows quantized at a time, which bounds the temporary memory
# Activations as unsigned bytes: (zero point, largest distance from it).
_EIGHT_BITS = (128, 127)
_SEVEN_BITS = (64, 63)


@cache
def byte_range() -> tuple[int, int] | None:
    """(zero point, largest distance) of activation bytes on this machine; None if torch has no int8 GEMM for it.

    Instructions older than VNNI add pairs of products in 16 bits with saturation, which gives wrong sums for 8-bit
    activations; 7 bits always fit. So this multiplies extreme values and compares the sums.
    """
    for zero_point, max_distance in (_EIGHT_BITS, _SEVEN_BITS):
        x = torch.full((2, 256), zero_point + max_distance, dtype=torch.uint8)
        x[1] = zero_point - max_distance
        rows = torch.full((64, 256), 127, dtype=torch.int8)
        rows[1::2] = -127
        try:
            got = _int8_product(x, zero_point, _prepack(rows), torch.ones(64), torch.zeros(64, dtype=torch.int64))
        except (AttributeError, RuntimeError):  # not in this build; not on this machine
            return None
        if torch.equal(got, (x.float() - zero_point) @ rows.float().T):
            return zero_point, max_distance
    return None


def has_fast_int8() -> bool:
    """Whether the int8 GEMM is faster than the float32 one on this machine; for a single token that requires VNNI."""
    return byte_range() == _EIGHT_BITS


@cache
def has_fast_int4() -> bool:
    """Whether torch has an int4 GEMM for this machine's vector instructions."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False  # elsewhere it is slower than float32, or missing
    try:
        Int4Linear(torch.ones(64, 64))(torch.ones(1, 64))
    except (AttributeError, RuntimeError):
        return False
    return True


class Int8Linear(nn.Module):
    """y = x W^T with W in int8, one scale for each output row, and x in 16 (or 14) bits, one scale for each token.

    8 bits are too few for the outliers in a Llama's activations. So x is split into two digits of one byte each, which
    are two rows of one int8 GEMM. That costs little, because the GEMM is limited by reading W.

    Formula: x = peak / r * (base * high + low), with high and low the digits minus their zero point,
    peak = max |x| of the token, and r = max_distance * (base + 1) the largest number that two digits hold.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        found = byte_range()
        if found is None:
            raise ValueError("torch has no int8 GEMM for this machine")
        self._zero_point, max_distance = found
        scale = weight.abs().amax(dim=1).float().clamp_min(1e-30) / 127
        rows = torch.empty(weight.shape, dtype=torch.int8)
        for start in range(0, len(weight), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            rows[chunk] = (weight[chunk].float() / scale[chunk, None]).round_()
        base = 2 * self._zero_point  # of the two digits
        self._max_value = float(max_distance * (base + 1))
        self._packed, self._scale = _prepack(rows), scale / self._max_value
        self._weight_zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self._offset = torch.tensor(self._zero_point * (base + 1) + 0.5)  # both zero points, and a half for rounding
        self._base, self._shifts = base, torch.tensor([[[0]], [[base.bit_length() - 1]]], dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, columns] -> [T, rows] in x's dtype."""
        x32 = x.float()
        # For a token of zeros this is 0 / 0. Whatever bytes that gives are multiplied by the peak, 0, at the end. A
        # token with NaN has a NaN peak, so its result is NaN.
        peak = x32.abs().amax(dim=-1, keepdim=True)
        shifted = torch.add(self._offset, x32 / peak, alpha=self._max_value).to(torch.int32)  # truncation rounds here
        if self._base == 256:  # the digits are the two low bytes in memory
            digits = shifted.view(torch.uint8).view(*x.shape, 4)[..., :2].permute(2, 0, 1)
        else:
            digits = ((shifted >> self._shifts) & (self._base - 1)).to(torch.uint8)
        data = digits.reshape(-1, x.shape[-1])
        products = _int8_product(data, self._zero_point, self._packed, self._scale, self._weight_zero_points)
        low, high = products.view(2, len(x), -1)
        return torch.add(low, high, alpha=self._base).mul_(peak).to(x.dtype)


class Int4Linear(nn.Module):
    """y = x W^T with W in int4, one scale and zero point for each group of columns; x and the result are bfloat16.

    w = scale * (nibble - 8) + zero_point, both bfloat16. The result is converted to `out_dtype`.
    """

    def __init__(self, weight: Tensor, out_dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self._out_dtype = out_dtype
        rows, columns = weight.shape
        nibbles = torch.empty(rows, columns, dtype=torch.int32)
        scales = torch.empty(columns // GROUP, rows, 2, dtype=torch.bfloat16)
        for start in range(0, rows, _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            groups = weight[chunk].float().view(-1, columns // GROUP, GROUP)
            low, high = groups.aminmax(dim=-1, keepdim=True)
            scale = ((high - low) / 15).clamp_min(1e-30)
            codes = ((groups - low) / scale).round_().clamp_(0, 15)
            scale = scale.bfloat16().float()
            # The mean error of the group, including the rounding of the scale.
            zero_point = (groups - (codes - 8) * scale).mean(dim=-1, keepdim=True)
            nibbles[chunk] = codes.view(-1, columns).int()
            scales[:, chunk] = torch.cat((scale, zero_point), dim=-1).transpose(0, 1)
        self._packed, self._scales = torch._convert_weight_to_int4pack_for_cpu(nibbles, 1), scales

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether the kernel supports the shape: rows a multiple of 64, columns a multiple of the group size."""
        return weight.shape[0] % 64 == 0 and weight.shape[1] % GROUP == 0

    def forward(self, x: Tensor) -> Tensor:
        """x [T, columns] -> [T, rows] in `out_dtype`."""
        return torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self._packed, GROUP, self._scales).to(self._out_dtype)


class Norm(nn.Module):
    """RMSNorm in few torch operations, because the overhead of each exceeds its arithmetic.

    With n = dim: x * weight / sqrt(sum(x^2) / n + eps) = x / hypot(|x|, sqrt(eps * n)) * (weight * sqrt(n)).
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        root = len(weight) ** 0.5
        self._weight, self._floor = weight.float() * root, torch.tensor(eps**0.5 * root)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, dim] -> [T, dim] in float32."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return (x / torch.hypot(length, self._floor)).mul_(self._weight)


def _prepack(rows: Tensor) -> Tensor:
    """int8 [rows, columns] in oneDNN's own layout."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(rows, None)
    return packed


def _int8_product(x: Tensor, zero_point: int, packed: Tensor, scale: Tensor, weight_zero_points: Tensor) -> Tensor:
    """(x - zero_point) W^T * scale: uint8 x, exact int32 sums, one float32 scale for each column of the result."""
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, zero_point, packed, scale, weight_zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return result
