"""Keys and values in 8 bits: int8 with one scale for each token and head, or fp8 (e4m3) without scales.

Scales are int32 [pages, kv heads, page size], with any stride of pages: the key's scale in the low 16 bits and the
value's in the high ones, both as bfloat16. A token reads its own key and value as stored, so that a reply does not
depend on how its prompt was divided into steps. `engine/layers/quantized_kv.py` defines the rounding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def quantize_vectors(x, AXIS: tl.constexpr):
    """float32 x -> (integers −127 … 127 as float32, scales without the last axis). AXIS is x's last axis."""
    bits = (tl.maximum(tl.max(tl.abs(x), AXIS), 1.0e-20) / 127.0).to(tl.int32, bitcast=True)
    scale = ((bits + 0x8000) & -65536).to(tl.float32, bitcast=True)
    scale_column = tl.expand_dims(scale, AXIS) if AXIS > 0 else scale
    return tl.minimum(tl.maximum(tl.floor(x / scale_column + 0.5), -127.0), 127.0), scale


@triton.jit
def bf16_bits(scale):
    """The bfloat16 bits of a float32 scale that `quantize_vectors` has rounded, as int32."""
    return scale.to(tl.int32, bitcast=True) >> 16


@triton.jit
def load_kv_scales(scales, page_ids, positions, head, mask, page_stride, PAGE: tl.constexpr):
    """(key scales, value scales), float32, at some positions of a head; page_ids (64 bits) are the positions' pages."""
    both = tl.load(scales + page_ids * page_stride + head * PAGE + positions % PAGE, mask=mask, other=0)
    return (both << 16).to(tl.float32, bitcast=True), (both & -65536).to(tl.float32, bitcast=True)


def scale_arguments(scales: torch.Tensor | None, unused: torch.Tensor, *, words: int = 1) -> tuple[torch.Tensor, int]:
    """What a kernel takes: the scales and the stride of their pages in int32; without scales, a pointer it never reads.

    `words`: elements of `scales` in an int32.
    """
    return (unused, 0) if scales is None else (scales, scales.stride(0) // words)


def is_packed(cache: torch.Tensor) -> bool:
    """Whether kernels read the cache [pages, page size, kv heads, D] two elements at a time, as words of 16 bits.

    Those of 8 bits, whose heads have at least 32 elements, as half a head is a side of a matrix product.
    """
    return cache.element_size() == 1 and cache.shape[-1] >= 32
