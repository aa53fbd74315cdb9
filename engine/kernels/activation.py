"""The gate of a feed-forward: SiLU or, as in Gemma, GELU with its tanh approximation."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gate_product(gate, up, GELU: tl.constexpr):
    """activation(gate) · up, in float32."""
    if GELU:
        # GELU's tanh form is gate · sigmoid(2 · sqrt(2 / pi) · (gate + 0.044715 · gate³)).
        exponent = -gate * (1.5957691216057308 + 0.07135481282553 * gate * gate)
        product = gate / (1.0 + tl.exp(tl.minimum(exponent, 80.0))) * up
    else:
        product = gate / (1.0 + tl.exp(-gate)) * up
    return product
