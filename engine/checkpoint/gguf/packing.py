"""How GGML packs numbers into the bytes of a block, and the two tables of 4-bit values that are not evenly spaced."""

import numpy as np

from engine.checkpoint.encoding import Bytes, Floats

# What a 4-bit code stands for: `kvalues_iq4nl` (IQ4_NL, IQ4_XS) and `kvalues_mxfp4` (twice the values of FP4 E2M1).
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32)
FP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32)


def float16(raw: Bytes) -> Floats:
    """Each row's bytes as little-endian float16."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def nibbles(raw: Bytes) -> Bytes:
    """The low nibbles of a row's bytes, then the high nibbles."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def two_bits(raw: Bytes) -> Bytes:
    """The four 2-bit numbers of each byte, lowest first: [n, b] becomes [n, 4, b]."""
    return (raw[:, None, :] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]) & np.uint8(3)


def bit_planes(raw: Bytes) -> Bytes:
    """The eight bits of each byte, lowest first: [n, b] becomes [n, 8, b]."""
    return (raw[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)


def half_power_of_two(raw: Bytes) -> Floats:
    """2 ** (e - 128) for each exponent byte e (E8M0, halved), as ggml's `e8m0_to_fp32_half`.

    The two smallest exponents are subnormal in float32, so they are written as bits.
    """
    exponent = raw.astype(np.int32)
    subnormal = np.int32(0x00200000) << np.minimum(exponent, 1)
    bits: Floats = np.where(exponent < 2, subnormal, (exponent - 1) << 23).astype(np.int32).view(np.float32)
    return bits
