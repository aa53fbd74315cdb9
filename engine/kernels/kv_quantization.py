"""Keys and values in 8 bits: int8 with a scale for each token and head, or fp8 (e4m3) as they are.

Scales are int32 [pages, kv heads, PAGE], a key's in the low half and its value's in the high one, as the upper halves
of floats. What is stored is what everyone reads, the token that stores it included: a reply must not depend on how its
prompt was cut into steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def quantize_vectors(x, AXIS: tl.constexpr):
    """(whole numbers −127 … 127, scales) of vectors along AXIS, the last one."""
    bits = (tl.maximum(tl.max(tl.abs(x), AXIS), 1.0e-20) / 127.0).to(tl.int32, bitcast=True)
    scale = ((bits + 0x8000) & -65536).to(tl.float32, bitcast=True)
    wide = tl.expand_dims(scale, AXIS) if AXIS > 0 else scale
    return tl.minimum(tl.maximum(tl.floor(x / wide + 0.5), -127.0), 127.0), scale


@triton.jit
def bf16_bits(scale):
    """A scale as it is stored."""
    return scale.to(tl.int32, bitcast=True) >> 16


@triton.jit
def load_kv_scales(scales, pages, at, head, ok, H: tl.constexpr, PAGE: tl.constexpr):
    """The keys' and values' scales at some positions, whose pages are given, for one head."""
    both = tl.load(scales + (pages * H + head) * PAGE + at % PAGE, mask=ok, other=0)
    return (both << 16).to(tl.float32, bitcast=True), (both & -65536).to(tl.float32, bitcast=True)


def allocate_scales(cache: torch.Tensor) -> torch.Tensor | None:
    """Scales for a cache [pages, PAGE, kv heads, D], if it is int8."""
    pages, page, heads, _ = cache.shape
    if cache.dtype != torch.int8:
        return None
    return torch.zeros(pages, heads, page, dtype=torch.int32, device=cache.device)
