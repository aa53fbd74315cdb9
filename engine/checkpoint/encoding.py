"""How a tensor's numbers are laid out in a file. The plain float encodings are here; GGML's are in `gguf/blocks.py`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoding:
    """Blocks of `block_size` consecutive weights of one row, `block_bytes` bytes each.

    `decode` takes bytes [n, block_bytes] and returns weights [n, block_size]. It is None where the bytes are the
    numbers already. `dtype` is the dtype of the decoded weights.
    """

    name: str
    block_size: int
    block_bytes: int
    dtype: torch.dtype
    decode: Callable[[Bytes], Floats] | None = None


F32 = Encoding("F32", 1, 4, torch.float32)
F16 = Encoding("F16", 1, 2, torch.float16)
BF16 = Encoding("BF16", 1, 2, torch.bfloat16)
PLAIN = {encoding.dtype: encoding for encoding in (F32, F16, BF16)}
# What quantized tensors are made of: codes, words of several codes, indices, and scales that are powers of two.
F8_E4M3 = Encoding("F8_E4M3", 1, 1, torch.float8_e4m3fn)
F8_E8M0 = Encoding("F8_E8M0", 1, 1, torch.float8_e8m0fnu)
I8 = Encoding("I8", 1, 1, torch.int8)
I32 = Encoding("I32", 1, 4, torch.int32)
I64 = Encoding("I64", 1, 8, torch.int64)
