"""GGML's quantized block formats, decoded to float32, and the table of GGML type numbers.

Each decoder takes blocks as bytes [n, block_bytes] and returns weights [n, block_size]. The order of the arithmetic is
that of ggml's `dequantize_row_*` functions, so the results are bitwise equal to ggml's.
"""

import numpy as np
import torch

from engine.checkpoint.encoding import BF16, F16, F32, Bytes, Encoding, Floats


def _float16(raw: Bytes) -> Floats:
    """Each row's bytes as little-endian float16."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """The low nibbles of a row's bytes, then the high nibbles."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _q8_0(raw: Bytes) -> Floats:
    """float16 scale, 32 int8: w = scale * q."""
    return np.multiply(np.ascontiguousarray(raw[:, 2:]).view(np.int8), _float16(raw[:, :2]), dtype=np.float32)


def _q4_0(raw: Bytes) -> Floats:
    """float16 scale, 32 nibbles: w = scale * (q - 8)."""
    return (_nibbles(raw[:, 2:]).astype(np.float32) - np.float32(8)) * _float16(raw[:, :2])


def _q4_1(raw: Bytes) -> Floats:
    """float16 scale, float16 minimum, 32 nibbles: w = scale * q + minimum."""
    weights = np.multiply(_nibbles(raw[:, 4:]), _float16(raw[:, :2]), dtype=np.float32)
    weights += _float16(raw[:, 2:4])
    return weights


def _six_bit_scales(raw: Bytes) -> tuple[Bytes, Bytes]:
    """The eight scales and eight minima of a Q4_K or Q5_K block, six bits each, packed into twelve bytes."""
    low, high, rest = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([low & 63, (rest & 15) | ((low >> 6) << 4)], axis=1)
    minima = np.concatenate([high & 63, (rest >> 4) | ((high >> 6) << 4)], axis=1)
    return scales, minima


def _scale_sub_blocks(raw: Bytes, quants: Bytes) -> Floats:
    """w = (d * scale) * q - (dmin * minimum) for quants [n, 8, 32].

    d and dmin are the two float16 that open the block; the 6-bit scales and minima of the sub-blocks follow them.
    """
    scales, minima = _six_bit_scales(raw[:, 4:16])
    weights = quants.astype(np.float32) * (_float16(raw[:, 0:2]) * scales)[:, :, None]
    weights -= (_float16(raw[:, 2:4]) * minima)[:, :, None]
    return weights.reshape(-1, 256)


def _q4_k(raw: Bytes) -> Floats:
    """Eight sub-blocks of 32 nibbles."""
    return _scale_sub_blocks(raw, _nibbles(raw[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(raw: Bytes) -> Floats:
    """Eight sub-blocks of 32 five-bit numbers; their fifth bits come first, one bit plane for each sub-block."""
    fifth = ((raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1).astype(np.uint8)
    low = _nibbles(raw[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return _scale_sub_blocks(raw, low + fifth * np.uint8(16))


def _q6_k(raw: Bytes) -> Floats:
    """Sixteen sub-blocks of 16 six-bit numbers: w = (int8 scale * d) * (q - 32), with d the float16 at the end."""
    low = _nibbles(raw[:, :128].reshape(-1, 2, 64)).reshape(-1, 8, 32)
    pairs = raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    quants = (low | ((pairs.reshape(-1, 8, 32) & 3) << 4)).astype(np.int8) - np.int8(32)
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8) * _float16(raw[:, 208:210])
    return (quants.reshape(-1, 16, 16) * scales[:, :, None]).astype(np.float32).reshape(-1, 256)


# `enum ggml_type` in ggml.h: the types that this engine reads.
GGML_TYPES = {
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
