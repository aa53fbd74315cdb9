"""Activations in fp8 with a scale for each token, in plain torch: the definition that the kernels must match.

It knows vectors, and neither weights nor the order in which kernels store columns.
"""

import torch
from torch import Tensor

E4M3_MAX = 448.0


def quantized_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [T, K] ≈ codes · scales: codes e4m3 [T, K], each token's largest magnitude at 448; scales float32 [T, 1]."""
    x = x.float()
    scales = (x.abs().amax(-1, keepdim=True) / E4M3_MAX).clamp_min(1e-12)
    return (x / scales).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scales


def rounded_tokens(x: Tensor) -> Tensor:
    """x [T, K] as a product of 8 bits both ways sees it, in x's dtype."""
    codes, scales = quantized_tokens(x)
    return (codes.float() * scales).to(x.dtype)
