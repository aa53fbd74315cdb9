"""Products of many tokens with fp8 weights, 8 bits both ways: tokens are quantized too, each with a scale of its own.

It knows matrices and tokens, and neither layers nor ranks. On a CPU, for the tests, plain torch multiplies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.linear.quantize_tokens import quantize_tokens
from engine.kernels.pdl import supported
from engine.model.eight_bit_weight import EightBitWeight, num_lines

_ALIGNMENT = 16  # rows of a matrix that the library's product takes


class ScaledProducts:
    """`product` for inputs of up to `max_tokens` tokens of up to `max_columns` columns."""

    def __init__(self, device: torch.device, max_tokens: int, max_columns: int) -> None:
        self._pdl = supported(device)
        self._codes = torch.zeros(max_tokens * num_lines(max_columns) * 64, dtype=torch.float8_e4m3fn, device=device)
        self._scales = torch.zeros(max_tokens, 1, device=device)

    @staticmethod
    def supported(device: torch.device, dtype: torch.dtype) -> bool:
        """Whether there are such products: of bfloat16 only, and where torch's build has them for this GPU."""
        if device.type != "cuda":
            return True
        if dtype != torch.bfloat16 or torch.cuda.get_device_capability(device) < (8, 9):
            return False
        codes, scales = torch.zeros(64, 64, device=device), torch.ones(64, 1, device=device)
        try:
            _multiply(
                codes.to(torch.float8_e4m3fn), scales, codes.to(torch.float8_e4m3fn), scales[:, 0], codes.to(dtype)
            )
        except RuntimeError:
            return False
        return True

    @staticmethod
    def takes(weight: object) -> bool:
        """Whether `product` takes this weight."""
        return isinstance(weight, EightBitWeight) and weight.fp8 and weight.shape[0] % _ALIGNMENT == 0

    def product(
        self, x: Tensor, weight: EightBitWeight, out: Tensor, *, gated: bool = False, gelu: bool = False
    ) -> None:
        """out [T, rows] = x · weightᵀ. x [T, columns], or with `gated` gate and up [T, 2 · columns]."""
        tokens, width = x.shape[0], weight.words.shape[1] * 2
        codes, scales = self._codes[: tokens * width].view(tokens, width), self._scales[:tokens]
        quantize_tokens(x, codes, scales, gated=gated, gelu=gelu, pdl=self._pdl)
        _multiply(codes, scales, weight.codes, weight.scales, out)


def _multiply(codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, out: Tensor) -> None:
    """out [T, N] = (codes [T, K] · scales [T, 1]) (weight [N, K] · weight_scales [N])ᵀ; codes are e4m3."""
    if codes.device.type == "cuda":
        torch._scaled_mm(
            codes, weight.T, scales, weight_scales[None], out_dtype=out.dtype, use_fast_accum=True, out=out
        )
    else:
        out.copy_((codes.float() * scales) @ (weight.float() * weight_scales[:, None]).T)
