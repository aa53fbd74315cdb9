"""What a quantized KV cache gives back, in plain torch: the definition that the kernels must match.

It knows dtypes and vectors, and neither pages nor rows.
"""

import torch
from torch import Tensor


def stored_values(x: Tensor, storage: torch.dtype) -> Tensor:
    """Keys or values x [tokens, kv heads, D] after being stored as `storage` and read again, in x's dtype.

    int8: each vector has a scale, its largest magnitude / 127 rounded to bfloat16, and integers −127 … 127.
    """
    if storage != torch.int8:
        return x.to(storage).to(x.dtype)
    bits = (x.float().abs().amax(-1, keepdim=True).clamp_min(1e-20) / 127).view(torch.int32)
    scale = ((bits + 0x8000) & -65536).view(torch.float32)  # rounds to the upper 16 bits, a bfloat16
    return ((x.float() / scale + 0.5).floor().clamp(-127, 127) * scale).to(x.dtype)
