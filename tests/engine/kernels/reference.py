"""What each kernel computes, in plain torch and 32 bits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.layers.paged_attention import PLAIN, AttentionRule
from engine.layers.quantized_kv import stored_values
from engine.model.quantized_weight import QuantizedWeight


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps) * gain.float()).to(x.dtype)


def gate_mul(x: Tensor, *, gelu: bool = False) -> Tensor:
    gate, up = x.float().chunk(2, dim=-1)
    return ((F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up).to(x.dtype)


def linear(
    x: Tensor,
    weight: Tensor | QuantizedWeight,
    *,
    gain: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    gelu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """Norm, product, gate and residual sum; quantized weights are dequantized."""
    weight = weight.dequantize() if isinstance(weight, QuantizedWeight) else weight.float()
    y = F.linear(x.float() if gain is None else rms_norm(x.float(), gain, eps), weight)
    if gated:
        y = gate_mul(y, gelu=gelu)
    return y if residual is None else y + residual.float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved rotary embedding: x [T, heads, D], cos and sin [T, D / 2]."""
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    c, s = cos[:, None], sin[:, None]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2).to(x.dtype)


def read_pages(cache: Tensor, page_ids: Tensor, length: int) -> Tensor:
    """The first `length` tokens of a row: [length, kv heads, D] from [pages, page size, kv heads, D]."""
    page_size = cache.shape[1]
    return cache[page_ids[: -(-length // page_size)].long()].flatten(0, 1)[:length]


def write_pages(cache: Tensor, page_ids: Tensor, start: int, values: Tensor) -> None:
    page_size = cache.shape[1]
    positions = torch.arange(start, start + len(values), device=cache.device)
    cache[page_ids.long()[positions // page_size], positions % page_size] = values.to(cache.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, start: int, rule: AttentionRule = PLAIN) -> Tensor:
    """Attention of q [T, heads, D] at positions start… over k, v [S, kv heads, D], as `rule` says."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", q.float(), k) * (rule.scale or q.shape[-1] ** -0.5)
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    distance = start + torch.arange(len(q), device=q.device)[:, None] - torch.arange(len(k), device=q.device)[None]
    hidden = (distance < 0) | (distance >= (rule.window or len(k)))
    return torch.einsum("hts,shd->thd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def attention(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_ids: Tensor,
    start: int,
    cos: Tensor,
    sin: Tensor,
    *,
    heads: int,
    storage: torch.dtype | None = None,
    rule: AttentionRule = PLAIN,
) -> Tensor:
    """One row's new tokens: rotate, store, attend. qkv [T, (heads + 2 · kv heads) · D] -> [T, heads · D].

    With `storage`, the caches hold what a cache of that dtype would give back.
    """
    kv_heads, dim = k_cache.shape[2:]
    tokens = len(qkv)
    q, k, v = torch.split(qkv.view(tokens, -1, dim), [heads, kv_heads, kv_heads], 1)
    new = slice(start, start + tokens)
    for cache, values in ((k_cache, rotate(k, cos[new], sin[new])), (v_cache, v)):
        write_pages(cache, page_ids, start, values if storage is None else stored_values(values, storage))
    keys, values = (read_pages(cache, page_ids, start + tokens) for cache in (k_cache, v_cache))
    return attend(rotate(q, cos[new], sin[new]), keys, values, start, rule).flatten(1)
