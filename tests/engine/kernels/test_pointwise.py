"""What Gemma and biased models need of the small kernels, and GELU in every gated product, against plain torch."""

import math
from dataclasses import replace

import pytest
import torch

from engine.kernels import hidden_states, pointwise
from engine.kernels.linear.eight_bit_gemv import eight_bit_gemv
from engine.kernels.linear.eight_bit_matmul import eight_bit_matmul
from engine.kernels.linear.gemv import gemv
from engine.kernels.linear.int4.gemv import int4_gemv
from engine.kernels.linear.int4.matmul import int4_matmul
from engine.kernels.linear.matmul import GATED, GemmConfig, Scratch, matmul
from engine.model.eight_bit_weight import Int8Weight
from engine.model.int4_weight import Int4Weight
from tests.engine.kernels import reference
from tests.engine.kernels.test_linear import CLOSE, DEVICE, DTYPE, EPS, PDL, random, weights

DIM, TOKENS = 48, 3


@pytest.mark.parametrize(("biased", "normed"), [(True, False), (False, True), (True, True)])
def test_what_is_added_gets_its_bias_and_norm_first(biased: bool, normed: bool) -> None:
    h, delta, gain = random(TOKENS, DIM), random(TOKENS, DIM, seed=1), random(DIM, seed=2)
    bias, post_gain = random(DIM, seed=3), random(DIM, dtype=torch.float32, seed=4)
    added = delta + bias if biased else delta.clone()
    if normed:
        added = reference.rms_norm(added, post_gain, EPS)
    expected = h + added
    out = torch.full_like(h, torch.nan)
    hidden_states.norm(
        h, gain, out, EPS, TOKENS, delta=delta, bias=bias if biased else None, post_gain=post_gain if normed else None,
        pdl=PDL,
    )  # fmt: skip
    torch.testing.assert_close(h, expected, **CLOSE)
    torch.testing.assert_close(out, reference.rms_norm(h, gain, EPS), **CLOSE)


def test_embeddings_are_scaled() -> None:
    table, gain = random(9, DIM), random(DIM, dtype=torch.float32, seed=1)
    h, scaled = (torch.full((2, DIM), torch.nan, dtype=DTYPE, device=DEVICE) for _ in range(2))
    squares = torch.zeros(1, 16, device=DEVICE)
    rows, last = (torch.tensor(ids, dtype=torch.int32, device=DEVICE) for ids in ([1], [0, 5]))
    hidden_states.embed(
        table, rows, last, torch.tensor([7], dtype=torch.int32, device=DEVICE), h, 2, gain=gain, scaled=scaled,
        squares=squares, scale=7.0, pdl=PDL,
    )  # fmt: skip
    expected = table[[5, 7]] * 7.0
    torch.testing.assert_close(h, expected, **CLOSE)
    torch.testing.assert_close(scaled, (expected * gain).to(DTYPE), **CLOSE)
    torch.testing.assert_close(squares[0, :2], expected.float().square().sum(1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("gelu", [False, True])
def test_the_gate_has_a_bias(gelu: bool) -> None:
    x, bias = random(TOKENS, 2 * DIM), random(2 * DIM, seed=1)
    out = torch.full((TOKENS, DIM), torch.nan, dtype=DTYPE, device=DEVICE)
    pointwise.gate_mul(x, out, TOKENS, bias=bias, gelu=gelu, pdl=PDL)
    torch.testing.assert_close(out, reference.gate_mul(x + bias, gelu=gelu), **CLOSE)


def test_logits_are_capped_and_nan_stays() -> None:
    wide = random(2, 60, dtype=torch.float32) * 20
    wide[1, 3] = torch.nan
    logits = wide[:, :50]
    expected, rest = 30 * torch.tanh(logits / 30), wide[:, 50:].clone()
    pointwise.cap_logits(logits, 30.0, pdl=PDL)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert math.isnan(float(logits[1, 3]))
    assert torch.equal(wide[:, 50:], rest)


def test_gelu_in_the_products() -> None:
    k, n, bm = 100, 6, 16
    x, matrix = random(bm, k), weights(2 * n, k)
    x[0] *= 30  # gates that saturate
    quantized = Int4Weight(matrix)
    out, scratch = torch.full((bm, n), torch.nan, dtype=DTYPE, device=DEVICE), Scratch.allocate(DEVICE, 1 << 12, 64)
    config = GemmConfig(bn=16, bk=128, split=1, stages=1, warps=1)
    for weight in (matrix, quantized):
        expected = reference.linear(x, weight, gated=True, gelu=True)
        if isinstance(weight, Int4Weight):
            int4_gemv(x[:1], weight, out, gated=True, gelu=True, pdl=PDL)
        else:
            gemv(x[:1], weight, out, gated=True, gelu=True, pdl=PDL, block=128)
        torch.testing.assert_close(out[:1].float(), expected[:1], **CLOSE)
        if isinstance(weight, Int4Weight):
            int4_matmul(x, weight, out, config, scratch, bm=bm, kind=GATED, gelu=True, pdl=PDL)
        else:
            matmul(x, weight, out, replace(config, bk=32, warps=4), scratch, bm=bm, kind=GATED, gelu=True, pdl=PDL)
        torch.testing.assert_close(out[1:].float(), expected[1:], **CLOSE)
        # Weights rounded to bfloat16 differ by as much more as the tokens are larger, in gate and value.
        torch.testing.assert_close(out[0].float(), expected[0], rtol=CLOSE["rtol"], atol=30 * CLOSE["atol"])


def test_gelu_in_products_of_8_bits() -> None:
    k, n, bm = 100, 6, 16
    x, matrix = random(bm, k), weights(2 * n, k)
    x[0] *= 30  # gates that saturate
    w = Int8Weight(matrix)
    expected = reference.linear(x, w, gated=True, gelu=True)
    out = torch.full((bm, n), torch.nan, dtype=DTYPE, device=DEVICE)
    eight_bit_gemv(x[:1], w.words, w.scales, out, fp8=False, gated=True, gelu=True, pdl=PDL)
    torch.testing.assert_close(out[:1].float(), expected[:1], **CLOSE)
    config, scratch = GemmConfig(bn=16, bk=32, split=1, stages=1, warps=4), Scratch.allocate(DEVICE, 1 << 12, 64)
    eight_bit_matmul(x, w.words, w.scales, out, config, scratch, fp8=False, bm=bm, kind=GATED, gelu=True, pdl=PDL)
    torch.testing.assert_close(out.float(), expected, **CLOSE)
