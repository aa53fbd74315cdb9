"""Products whose weights are unpacked in registers, on their way to the tensor cores."""

from __future__ import annotations

import os

import triton
import triton.language as tl

_INTERPRETED: tl.constexpr = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def waited_for(acc):
    """acc, a product's float32 sums, as soon as it is complete: no instruction, but one that needs them.

    Else Triton unpacks the next step's operand while Hopper's tensor cores still read this one, into the same
    registers. PTX forbids it (triton-lang/triton issue 9433); Triton 3.6 and 3.7.1 do not keep them apart.
    """
    if _INTERPRETED:
        return acc
    return tl.inline_asm_elementwise("", "=f,0", [acc], dtype=tl.float32, is_pure=True, pack=1)
