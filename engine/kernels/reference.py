"""What each kernel computes, in plain torch: the oracles of the tests, never the fast path."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.quantization import QuantizedWeight, dequantize


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * gain.float()).to(x.dtype)


def silu_mul(x: Tensor) -> Tensor:
    gate, up = x.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)


def linear(
    x: Tensor,
    weight: Tensor | QuantizedWeight,
    *,
    gain: Tensor | None = None,
    eps: float = 0.0,
    silu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """Norm, product, gate and residual in 32 bits; packed weights unfolded (`engine.model.quantization.unfold`)."""
    wide = dequantize(weight) if isinstance(weight, QuantizedWeight) else weight.float()
    y = F.linear(x.float() if gain is None else rms_norm(x.float(), gain, eps), wide)
    if silu:
        y = silu_mul(y)
    return y if residual is None else y + residual.float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved rotary embedding: x [T, heads, D], cos and sin [T, D / 2]."""
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    c, s = cos[:, None], sin[:, None]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2).to(x.dtype)


def paged(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """The first `length` tokens of a row: [length, kv heads, D] from [pages, PAGE, kv heads, D]."""
    page = cache.shape[1]
    return cache[table[: -(-length // page)].long()].flatten(0, 1)[:length]


def store(cache: Tensor, table: Tensor, start: int, values: Tensor) -> None:
    page = cache.shape[1]
    at = torch.arange(start, start + len(values), device=cache.device)
    cache[table.long()[at // page], at % page] = values.to(cache.dtype)


def stored_values(x: Tensor, storage: torch.dtype) -> Tensor:
    """What is read of keys or values [tokens, kv heads, D] that are kept in this type: int8 has a scale a vector."""
    if storage != torch.int8:
        return x.to(storage).to(x.dtype)
    bits = (x.float().abs().amax(-1, keepdim=True).clamp_min(1e-20) / 127).view(torch.int32)
    scale = ((bits + 0x8000) & -65536).view(torch.float32)  # the upper half of a float
    return ((x.float() / scale + 0.5).floor().clamp(-127, 127) * scale).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    """q [T, heads, D] at positions start… over k, v [S, kv heads, D]; causal; 32 bits."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", q.float(), k) * q.shape[-1] ** -0.5
    late = torch.arange(len(k), device=q.device)[None] > start + torch.arange(len(q), device=q.device)[:, None]
    return torch.einsum("hts,shd->thd", scores.masked_fill(late, -torch.inf).softmax(-1), v)


def attention(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    table: Tensor,
    start: int,
    cos: Tensor,
    sin: Tensor,
    *,
    heads: int,
    storage: torch.dtype | None = None,
) -> Tensor:
    """One row's new tokens: rotate, store, attend. qkv [T, (heads + 2 kv)·D] -> [T, heads·D], 32 bits.

    With `storage`, the caches hold what is read of keys and values kept in that type.
    """
    kv, dim = k_cache.shape[2:]
    tokens = len(qkv)
    q, k, v = torch.split(qkv.view(tokens, -1, dim), [heads, kv, kv], 1)
    here = slice(start, start + tokens)
    for cache, new in ((k_cache, rotate(k, cos[here], sin[here])), (v_cache, v)):
        store(cache, table, start, new if storage is None else stored_values(new, storage))
    keys, values = (paged(cache, table, start + tokens) for cache in (k_cache, v_cache))
    return attend(rotate(q, cos[here], sin[here]), keys, values, start).flatten(1)
