"""GGML's quantized block formats, decoded to float32, and the table of GGML type numbers.

Each decoder takes blocks as bytes [n, block_bytes] and returns weights [n, 32]; `super_blocks` has those of 256. The
order of the arithmetic is that of ggml's `dequantize_row_*` functions, so the results are bitwise equal to ggml's.
"""

import numpy as np
import torch

from engine.checkpoint.encoding import BF16, F16, F32, Bytes, Encoding, Floats
from engine.checkpoint.gguf import super_blocks
from engine.checkpoint.gguf.packing import FP4_VALUES, IQ4_VALUES, float16, half_power_of_two, nibbles


def _q8_0(raw: Bytes) -> Floats:
    """float16 scale, 32 int8: w = scale * q."""
    return np.multiply(np.ascontiguousarray(raw[:, 2:]).view(np.int8), float16(raw[:, :2]), dtype=np.float32)


def _q4_0(raw: Bytes) -> Floats:
    """float16 scale, 32 nibbles: w = scale * (q - 8)."""
    return (nibbles(raw[:, 2:]).astype(np.float32) - np.float32(8)) * float16(raw[:, :2])


def _q4_1(raw: Bytes) -> Floats:
    """float16 scale, float16 minimum, 32 nibbles: w = scale * q + minimum."""
    weights = np.multiply(nibbles(raw[:, 4:]), float16(raw[:, :2]), dtype=np.float32)
    weights += float16(raw[:, 2:4])
    return weights


def _five_bits(fifth: Bytes, low: Bytes) -> Bytes:
    """32 five-bit numbers: their fifth bits are a little-endian number of 32 bits, their low four are nibbles."""
    return nibbles(low) | (np.unpackbits(np.ascontiguousarray(fifth), axis=-1, bitorder="little") << np.uint8(4))


def _q5_0(raw: Bytes) -> Floats:
    """float16 scale, 32 five-bit numbers: w = scale * (q - 16)."""
    return (_five_bits(raw[:, 2:6], raw[:, 6:]).astype(np.float32) - np.float32(16)) * float16(raw[:, :2])


def _q5_1(raw: Bytes) -> Floats:
    """float16 scale, float16 minimum, 32 five-bit numbers: w = scale * q + minimum."""
    weights = np.multiply(_five_bits(raw[:, 4:8], raw[:, 8:]), float16(raw[:, :2]), dtype=np.float32)
    weights += float16(raw[:, 2:4])
    return weights


def _iq4_nl(raw: Bytes) -> Floats:
    """float16 scale, 32 codes: w = scale * IQ4_VALUES[code]."""
    return IQ4_VALUES[nibbles(raw[:, 2:])] * float16(raw[:, :2])


def _mxfp4(raw: Bytes) -> Floats:
    """A power of two as its exponent's byte, 32 codes: w = scale * FP4_VALUES[code]."""
    return FP4_VALUES[nibbles(raw[:, 1:])] * half_power_of_two(raw[:, :1])


# `enum ggml_type` in ggml.h: the types that this engine reads.
GGML_TYPES = {
    0: F32,
    1: F16,
    2: Encoding("Q4_0", 32, 18, torch.float32, _q4_0),
    3: Encoding("Q4_1", 32, 20, torch.float32, _q4_1),
    6: Encoding("Q5_0", 32, 22, torch.float32, _q5_0),
    7: Encoding("Q5_1", 32, 24, torch.float32, _q5_1),
    8: Encoding("Q8_0", 32, 34, torch.float32, _q8_0),
    10: Encoding("Q2_K", 256, 84, torch.float32, super_blocks.q2_k),
    11: Encoding("Q3_K", 256, 110, torch.float32, super_blocks.q3_k),
    12: Encoding("Q4_K", 256, 144, torch.float32, super_blocks.q4_k),
    13: Encoding("Q5_K", 256, 176, torch.float32, super_blocks.q5_k),
    14: Encoding("Q6_K", 256, 210, torch.float32, super_blocks.q6_k),
    20: Encoding("IQ4_NL", 32, 18, torch.float32, _iq4_nl),
    23: Encoding("IQ4_XS", 256, 136, torch.float32, super_blocks.iq4_xs),
    30: BF16,
    39: Encoding("MXFP4", 32, 17, torch.float32, _mxfp4),
}
# The others that files of weights have, for the error text.
OTHER_GGML_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    40: "NVFP4",
    41: "Q1_0",
}
