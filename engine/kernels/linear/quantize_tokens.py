"""Activations in fp8 (e4m3), one scale for each token, for products of 8 bits both ways (`torch._scaled_mm`).

A token's columns are written in the order in which a packed row of weights has them: the two halves of each 64 columns
interleaved (`engine.model.quantization`). The kernels that write what the products read do it in passing: the norm of
the residual stream, the gate of the feed-forward.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.activation import gate_product
from engine.kernels.eight_bits import e4m3_words
from engine.kernels.hidden_states import row_warps
from engine.kernels.pdl import grid_wait, launch_dependents

E4M3_MAX: tl.constexpr = tl.constexpr(448.0)


@triton.jit
def load_half(x, gate, word, part, K: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr):
    """float32: the columns of part `part` of the words numbered `word` of a token x, whose gate is `gate` if GATED."""
    column = word // 32 * 64 + part * 32 + word % 32
    value = tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)
    if GATED:
        value = gate_product(tl.load(gate + column, mask=column < K, other=0.0).to(tl.float32), value, GELU)
    return value


@triton.jit
def quantize_tokens_kernel(
    x, words, scales, K: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr,
    GELU: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token per program, as WORDS int16 of two codes; BLOCK >= WORDS. Pointers: see `quantize_tokens`."""
    token = tl.program_id(0).to(tl.int64)
    word = tl.arange(0, BLOCK)
    grid_wait(PDL)
    launch_dependents(PDL)
    own = x + token * (2 * K if GATED else K)
    up = own + (K if GATED else 0)
    low = load_half(up, own, word, 0, K, GATED, GELU)
    high = load_half(up, own, word, 1, K, GATED, GELU)
    largest = tl.maximum(tl.max(tl.abs(low), 0), tl.max(tl.abs(high), 0))
    scale = tl.maximum(largest / E4M3_MAX, 1.0e-12)
    tl.store(scales + token, scale)
    packed = e4m3_words(low * (1.0 / scale), high * (1.0 / scale))
    tl.store(words + token * WORDS + word, packed, mask=word < WORDS)


def quantize_tokens(
    x: torch.Tensor, out: torch.Tensor, scales: torch.Tensor, *, gated: bool = False, gelu: bool = False,
    pdl: bool = False,
) -> None:  # fmt: skip
    """out e4m3 [tokens, lines · 64], scales float32 [tokens, 1]: x [tokens, K] ≈ out · scales, columns as packed.

    `gated`: x is [tokens, 2 · K], and silu(x[:, :K]) · x[:, K:] (with `gelu` of gelu) is quantized. Past K are zeros.
    """
    tokens, width = x.shape
    words = out.shape[1] // 2
    block = triton.next_power_of_2(words)
    quantize_tokens_kernel[(tokens,)](
        x, out.view(torch.int16), scales, K=width // 2 if gated else width, WORDS=words, BLOCK=block, GATED=gated,
        GELU=gelu, PDL=pdl, num_warps=row_warps(2 * block), launch_pdl=pdl,
    )  # fmt: skip
