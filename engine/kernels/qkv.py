"""What some families do to queries, keys and values before RoPE: a bias, and an RMSNorm of each query and key head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents

_HEADS_AT_ONCE = 8


@triton.jit
def bias_and_norm_kernel(
    qkv, bias, q_gain, k_gain, eps,
    HEADS: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, DB: tl.constexpr,
    BIAS: tl.constexpr, NORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """HB of a token's HEADS heads per program: HQ of queries, HK of keys, the rest of values.

    Pointers: see `bias_and_norm`. D: head dim; DB: D padded. BIAS, NORM: which of the two to do. Intermediate results
    are rounded to the model's dtype where plain torch rounds them.
    """
    token = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * HB + tl.arange(0, HB)
    d = tl.arange(0, DB)
    mask = (h < HEADS)[:, None] & (d < D)[None, :]
    in_row = h[:, None] * D + d[None, :]
    dtype: tl.constexpr = qkv.dtype.element_ty
    grid_wait(PDL)
    launch_dependents(PDL)
    at = qkv + token * (HEADS * D) + in_row
    value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        value = value + tl.load(bias + in_row, mask=mask, other=0.0).to(tl.float32)
        value = value.to(dtype).to(tl.float32)
    if NORM:
        scaled = value * tl.rsqrt(tl.sum(value * value, 1) / D + eps)[:, None]
        q = tl.load(q_gain + d, mask=d < D, other=0.0).to(tl.float32)
        k = tl.load(k_gain + d, mask=d < D, other=0.0).to(tl.float32)
        gain = tl.where((h < HQ)[:, None], q[None, :], k[None, :])
        if q_gain.dtype.element_ty == dtype:
            scaled = scaled.to(dtype).to(tl.float32)
        value = tl.where((h < HQ + HK)[:, None], scaled * gain, value)
    tl.store(at, value.to(dtype), mask=mask)


def bias_and_norm(
    qkv: torch.Tensor,
    tokens: int,
    *,
    heads: int,
    kv_heads: int,
    bias: torch.Tensor | None = None,
    q_gain: torch.Tensor | None = None,
    k_gain: torch.Tensor | None = None,
    eps: float = 0.0,
    pdl: bool = False,
) -> None:
    """qkv [≥ tokens, (heads + 2 · kv heads) · D] += bias; then each query and key head becomes RMSNorm(head) · gain.

    All in the model's dtype: bias as wide as qkv, and both gains [D] or neither. The gains may also be float32; then a
    normalized head is rounded once, at the end.
    """
    all_heads = heads + 2 * kv_heads
    dim = qkv.shape[-1] // all_heads
    norm = q_gain is not None and k_gain is not None
    bias_and_norm_kernel[(tokens, triton.cdiv(all_heads, _HEADS_AT_ONCE))](
        qkv, qkv if bias is None else bias, q_gain if norm else qkv, k_gain if norm else qkv, eps,
        HEADS=all_heads, HQ=heads, HK=kv_heads, D=dim, HB=_HEADS_AT_ONCE, DB=triton.next_power_of_2(dim),
        BIAS=bias is not None, NORM=norm, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
