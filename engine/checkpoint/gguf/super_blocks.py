"""GGML's super-blocks, decoded to float32: 256 weights in sub-blocks, whose scales are quantized as well.

Each decoder takes super-blocks as bytes [n, block_bytes] and returns weights [n, 256]. The order of the arithmetic is
that of ggml's `dequantize_row_*` functions, so the results are bitwise equal to ggml's.
"""

import numpy as np

from engine.checkpoint.encoding import Bytes, Floats
from engine.checkpoint.gguf.packing import IQ4_VALUES, bit_planes, float16, nibbles, two_bits


def q2_k(raw: Bytes) -> Floats:
    """Sixteen sub-blocks of 16 two-bit numbers: w = (d * scale) * q - (dmin * minimum).

    The nibbles of the first 16 bytes are the scales and the minima; d and dmin are the float16 at the end.
    """
    scales = (raw[:, :16] & 15) * float16(raw[:, 80:82])
    minima = (raw[:, :16] >> 4) * float16(raw[:, 82:84])
    quants = two_bits(raw[:, 16:80].reshape(-1, 32)).reshape(-1, 16, 16).astype(np.float32)
    weights: Floats = quants * scales[:, :, None] - minima[:, :, None]
    return weights.reshape(-1, 256)


def q3_k(raw: Bytes) -> Floats:
    """Sixteen sub-blocks of 16 three-bit numbers: w = (d * (scale - 32)) * (q - 4), with d the float16 at the end.

    The third bits come first, one bit plane for every 32 weights, then the low two bits, then the 6-bit scales: their
    low four bits in eight bytes, their high two bits in four.
    """
    high = two_bits(raw[:, 104:108]).reshape(-1, 16)
    scales = (nibbles(raw[:, 96:104]) | (high << 4)).astype(np.int8) - np.int8(32)
    low = two_bits(raw[:, 32:96].reshape(-1, 32)).reshape(-1, 8, 32)
    quants = (low | (bit_planes(raw[:, :32]) << 2)).astype(np.int8) - np.int8(4)
    weights = quants.reshape(-1, 16, 16) * (float16(raw[:, 108:110]) * scales)[:, :, None]
    return weights.astype(np.float32).reshape(-1, 256)


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
    weights = quants.astype(np.float32) * (float16(raw[:, 0:2]) * scales)[:, :, None]
    weights -= (float16(raw[:, 2:4]) * minima)[:, :, None]
    return weights.reshape(-1, 256)


def q4_k(raw: Bytes) -> Floats:
    """Eight sub-blocks of 32 nibbles."""
    return _scale_sub_blocks(raw, nibbles(raw[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def q5_k(raw: Bytes) -> Floats:
    """Eight sub-blocks of 32 five-bit numbers; their fifth bits come first, one bit plane for each sub-block."""
    low = nibbles(raw[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return _scale_sub_blocks(raw, low + bit_planes(raw[:, 16:48]) * np.uint8(16))


def q6_k(raw: Bytes) -> Floats:
    """Sixteen sub-blocks of 16 six-bit numbers: w = (int8 scale * d) * (q - 32), with d the float16 at the end."""
    low = nibbles(raw[:, :128].reshape(-1, 2, 64)).reshape(-1, 8, 32)
    pairs = raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    quants = (low | ((pairs.reshape(-1, 8, 32) & 3) << 4)).astype(np.int8) - np.int8(32)
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8) * float16(raw[:, 208:210])
    return (quants.reshape(-1, 16, 16) * scales[:, :, None]).astype(np.float32).reshape(-1, 256)


def iq4_xs(raw: Bytes) -> Floats:
    """Eight sub-blocks of 32 codes: w = (d * (scale - 32)) * IQ4_VALUES[code], with d the float16 that opens the block.

    The 6-bit scales: their high two bits in a little-endian number of 16 bits, their low four in the next four bytes.
    """
    packed = np.ascontiguousarray(raw[:, 2:4]).view("<u2")
    high = ((packed >> np.arange(0, 16, 2, dtype=np.uint16)) & 3).astype(np.uint8)
    low = np.stack([raw[:, 4:8] & 15, raw[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
    scales = (low | (high << 4)).astype(np.int8) - np.int8(32)
    codes = nibbles(raw[:, 8:].reshape(-1, 8, 16))
    weights: Floats = IQ4_VALUES[codes] * (float16(raw[:, :2]) * scales)[:, :, None]
    return weights.reshape(-1, 256)
