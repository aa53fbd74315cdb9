"""Bias of qkv and norms of its query and key heads equal plain torch."""

import pytest
import torch

from engine.kernels.qkv import bias_and_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("dtype", "gain_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)],
)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 16), (7, 1, 24), (14, 2, 64)])
@pytest.mark.parametrize(("biased", "normalized"), [(True, False), (False, True), (True, True)])
def test_equals_plain_torch(
    heads: int, kv_heads: int, dim: int, biased: bool, normalized: bool, dtype: torch.dtype, gain_dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    width = (heads + 2 * kv_heads) * dim
    qkv = torch.randn(5, width, generator=generator).to(DEVICE, dtype)
    bias = torch.randn(width, generator=generator).to(DEVICE, dtype)
    gains = [torch.randn(dim, generator=generator).to(DEVICE, gain_dtype) for _ in range(2)]
    expected = (qkv + bias if biased else qkv.clone()).view(5, -1, dim)
    if normalized:
        for first, end, gain in ((0, heads, gains[0]), (heads, heads + kv_heads, gains[1])):
            x = expected[:, first:end].float()
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-2)
            expected[:, first:end] = (x.to(gain_dtype) * gain).to(dtype)  # float32 gains: rounded once, at the end
    expected[3:] = qkv.view(5, -1, dim)[3:]  # tokens that the step does not have
    bias_and_norm(
        qkv, 3, heads=heads, kv_heads=kv_heads, bias=bias if biased else None, q_gain=gains[0] if normalized else None,
        k_gain=gains[1] if normalized else None, eps=1e-2,
    )  # fmt: skip
    # In bfloat16 Triton's interpreter cuts off where a GPU rounds: up to three steps of 2**-8.
    tolerance = 1e-5 if dtype == torch.float32 else 2**-5
    torch.testing.assert_close(qkv.view(5, -1, dim), expected, rtol=tolerance, atol=tolerance)
