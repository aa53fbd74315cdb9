"""Products whose weights are unpacked in registers, on their way to the tensor cores."""

from __future__ import annotations

import triton
import triton.language as tl

from engine.kernels.interpreter import INTERPRETED


@triton.jit
def waited_for(acc):
    """acc, a product's float32 sums of any shape, once the product is complete: empty assembly that reads the sums.

    Without it Triton 3.6 and 3.7.1 unpack the next step's operand into registers that Hopper's tensor cores still read
    for this product, which PTX forbids (triton-lang/triton issue 9433).
    """
    if INTERPRETED:
        return acc
    return tl.inline_asm_elementwise("", "=f,0", [acc], dtype=tl.float32, is_pure=True, pack=1)
