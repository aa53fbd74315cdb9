"""How numbers lie in a file: plain floats, or GGML's quantised blocks, decoded to float32.

A block holds `block` consecutive weights of one row in `size` bytes. The decoders take `[n, size]` bytes and give
`[n, block]` weights; the order of the arithmetic is ggml's, so the results are equal to the last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoding:
    """`dtype` is what decoding yields; `decode` is None where the bytes are the numbers already."""

    name: str
    block: int
    size: int
    dtype: torch.dtype
    decode: Callable[[Bytes], Floats] | None = None


def _half(raw: Bytes) -> Floats:
    """Little-endian float16 from each row's bytes."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """The low halves of a row's bytes, then the high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _q8_0(raw: Bytes) -> Floats:
    return np.multiply(np.ascontiguousarray(raw[:, 2:]).view(np.int8), _half(raw[:, :2]), dtype=np.float32)


def _q4_0(raw: Bytes) -> Floats:
    return (_nibbles(raw[:, 2:]).astype(np.float32) - np.float32(8)) * _half(raw[:, :2])


def _q4_1(raw: Bytes) -> Floats:
    weights = np.multiply(_nibbles(raw[:, 4:]), _half(raw[:, :2]), dtype=np.float32)
    weights += _half(raw[:, 2:4])
    return weights


def _six_bit_pairs(raw: Bytes) -> tuple[Bytes, Bytes]:
    """The eight scales and eight minima of a K block, six bits each, packed into twelve bytes."""
    low, high, rest = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([low & 63, (rest & 15) | ((low >> 6) << 4)], axis=1)
    minima = np.concatenate([high & 63, (rest >> 4) | ((high >> 6) << 4)], axis=1)
    return scales, minima


def _scaled_groups(raw: Bytes, quants: Bytes) -> Floats:
    """`quants` is [n, 8, 32]; the block opens with a scale and a minimum for the twelve bytes that follow them."""
    scales, minima = _six_bit_pairs(raw[:, 4:16])
    weights = quants.astype(np.float32) * (_half(raw[:, 0:2]) * scales)[:, :, None]
    weights -= (_half(raw[:, 2:4]) * minima)[:, :, None]
    return weights.reshape(-1, 256)


def _q4_k(raw: Bytes) -> Floats:
    return _scaled_groups(raw, _nibbles(raw[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(raw: Bytes) -> Floats:
    fifth = ((raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1).astype(np.uint8)
    low = _nibbles(raw[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return _scaled_groups(raw, low + fifth * np.uint8(16))


def _q6_k(raw: Bytes) -> Floats:
    low = _nibbles(raw[:, :128].reshape(-1, 2, 64)).reshape(-1, 8, 32)
    pairs = raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    quants = (low | ((pairs.reshape(-1, 8, 32) & 3) << 4)).astype(np.int8) - np.int8(32)
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8) * _half(raw[:, 208:210])
    return (quants.reshape(-1, 16, 16) * scales[:, :, None]).astype(np.float32).reshape(-1, 256)


F32 = Encoding("F32", 1, 4, torch.float32)
F16 = Encoding("F16", 1, 2, torch.float16)
BF16 = Encoding("BF16", 1, 2, torch.bfloat16)
PLAIN = {encoding.dtype: encoding for encoding in (F32, F16, BF16)}

# GGML's numbers for the encodings that we read.
GGML = {
    0: F32,
    1: F16,
    2: Encoding("Q4_0", 32, 18, torch.float32, _q4_0),
    3: Encoding("Q4_1", 32, 20, torch.float32, _q4_1),
    8: Encoding("Q8_0", 32, 34, torch.float32, _q8_0),
    12: Encoding("Q4_K", 256, 144, torch.float32, _q4_k),
    13: Encoding("Q5_K", 256, 176, torch.float32, _q5_k),
    14: Encoding("Q6_K", 256, 210, torch.float32, _q6_k),
    30: BF16,
}
