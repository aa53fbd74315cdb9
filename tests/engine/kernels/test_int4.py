"""4-bit weights: the products against plain torch, for all three formats of groups, endings and ragged sizes."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from engine.kernels.linear.int4.configs import int4_matmul_config, int4_prompt_config, pipeline_bytes
from engine.kernels.linear.int4.dequantize import int4_dequantize, int4_dequantize_kernel
from engine.kernels.linear.int4.gemv import int4_gemv
from engine.kernels.linear.int4.matmul import ADD, int4_matmul
from engine.kernels.linear.matmul import GATED, PLAIN, RESIDUAL, GemmConfig, PartialSquares, Scratch
from engine.model.int4_groups import OFFSET, SCALE, ZERO
from engine.model.int4_weight import Int4Weight
from tests.engine.kernels import reference
from tests.engine.kernels.test_linear import CLOSE, DEVICE, DTYPE, EPS, PDL, random

FORMATS = [SCALE, ZERO, OFFSET]
SIZES = [32, 320, pytest.param(1056, marks=pytest.mark.long)]  # columns: of one group, of two tiles, of several
ENDINGS = (PLAIN, GATED, RESIDUAL)
SHORT = {(PLAIN, 320, ZERO), (GATED, 320, OFFSET), (RESIDUAL, 32, SCALE)}  # ending, columns, format
CASES = [
    pytest.param(*case, marks=() if case in SHORT else pytest.mark.long)
    for case in itertools.product(ENDINGS, (32, 320, 1056), FORMATS)
]


def int4(rows: int, k: int, form: int) -> Int4Weight:
    """A weight whose groups have the format `form`, about as large as a trained one."""
    generator = torch.Generator().manual_seed(rows + k + form)
    weight = torch.randn(rows, k, generator=generator)
    if form != ZERO:
        codes = (weight * 3).round().clamp(-8, 7).view(rows, -1, 32)
        step = (torch.rand(rows, k // 32, 1, generator=generator) + 0.5).half().float() / 4
        minimum = (torch.rand(rows, k // 32, 1, generator=generator) - 0.5).half().float() if form == OFFSET else 0.0
        weight = (codes * step + minimum).view(rows, k)
    quantized = Int4Weight((weight * k**-0.5).to(DEVICE) if form == ZERO else (weight / 32).to(DEVICE))
    assert quantized.format == form
    return quantized


@pytest.mark.parametrize(("kind", "k", "form"), CASES)
def test_one_token(kind: int, k: int, form: int) -> None:
    n = 20  # two programs, the second one not full; the up rows begin inside a tile
    gated, residual = kind == GATED, kind == RESIDUAL
    x, w = random(1, k), int4(2 * n if gated else n, k, form)
    gain = None if residual else random(k, seed=5)
    before = random(1, n, dtype=torch.float32, seed=9)
    expected = reference.linear(x, w, gain=gain, eps=EPS, gated=gated, residual=before if residual else None)
    for height, warps, ahead in ((1, 2, 4), (2, 1, 1)):
        out = before.clone()
        int4_gemv(
            x, w, out, gain=gain, eps=EPS, gated=gated, residual=residual, pdl=PDL, height=height, warps=warps,
            ahead=ahead,
        )  # fmt: skip
        torch.testing.assert_close(out, expected, **CLOSE)


@pytest.mark.parametrize(("kind", "k", "form"), CASES)
def test_few_tokens(kind: int, k: int, form: int) -> None:
    """Ragged tiles, splits of unequal length, steps of 128 and 256 columns; the norm's factor from two partial sums."""
    bm, n = 16, 40
    x, gain, w = random(bm, k), random(n, seed=5), int4(2 * n if kind == GATED else n, k, form)
    before, scaled = random(bm, n, dtype=torch.float32, seed=9), torch.empty(bm, n, dtype=DTYPE, device=DEVICE)
    squares_out = torch.full((4, bm), torch.nan, device=DEVICE)
    halves = x.float().square().unflatten(1, (2, -1)).sum(-1).T.contiguous()
    ones = torch.ones(k, device=DEVICE)
    expected = reference.linear(
        x, w, gain=ones, eps=EPS, gated=kind == GATED, residual=before if kind == RESIDUAL else None
    )
    scratch = Scratch.allocate(DEVICE, 1 << 16, 64)
    for split, bk in ((1, 128), (3, 128), (2, 256)):
        out = before.clone()
        parts = int4_matmul(
            x, w, out, GemmConfig(16, bk, split, 2, 1), scratch, bm=bm, kind=kind, norm=PartialSquares(halves, 2),
            eps=EPS, gain=gain, scaled=scaled, squares_out=squares_out, pdl=PDL,
        )  # fmt: skip
        torch.testing.assert_close(out, expected, **CLOSE)
        assert not scratch.counters.any()
        if kind == RESIDUAL:
            assert parts == 3
            torch.testing.assert_close(scaled.float(), expected * gain.float(), **CLOSE)
            torch.testing.assert_close(squares_out[:parts].sum(0), expected.square().sum(1), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize(("tokens", "kind", "form"), [(32, PLAIN, OFFSET), (41, ADD, ZERO)])
def test_a_prompt(tokens: int, kind: int, form: int) -> None:
    x, w, before = random(tokens, 160), int4(40, 160, form), random(tokens, 40, seed=9)
    out, scratch = before.clone(), Scratch.allocate(DEVICE, 1, 1)
    int4_matmul(x, w, out, GemmConfig(32, 128, 1, 2, 2), scratch, bm=16, kind=kind, pdl=PDL, tokens=tokens)
    expected = reference.linear(x, w) + (before.float() if kind == ADD else 0.0)
    torch.testing.assert_close(out.float(), expected, **CLOSE)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="whole programs of a prompt are for tensor cores")
@pytest.mark.parametrize("kind", [PLAIN, ADD])
@pytest.mark.parametrize(("rows", "tokens"), [(4096, 512), (12288, 512), (22016, 512)])
def test_a_long_prompt(rows: int, tokens: int, kind: int) -> None:
    """Many programs and steps: without a wait, products would be in flight while the next operand is unpacked."""
    k, shared = 4096, 227 << 10
    x, w, before = random(tokens, k), int4(rows, k, ZERO), random(tokens, rows, seed=9)
    bm, config = int4_prompt_config(rows, tokens, shared)
    out = before.clone()
    int4_matmul(x, w, out, config, Scratch.allocate(DEVICE, 1, 1), bm=bm, kind=kind, pdl=PDL, tokens=tokens)
    expected = reference.linear(x, w) + (before.float() if kind == ADD else 0.0)
    torch.testing.assert_close(out.float(), expected, **CLOSE)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("k", SIZES)
def test_a_matrix_is_dequantized(k: int, form: int) -> None:
    w = int4(21, k, form)
    out = torch.full((21, k), torch.nan, dtype=DTYPE, device=DEVICE)
    int4_dequantize(w, out, pdl=PDL, warps=1)
    torch.testing.assert_close(out.float(), w.dequantize(), rtol=2**-7 if DEVICE.type == "cuda" else 1e-5, atol=1e-3)


@pytest.mark.parametrize("shared", [99 << 10, 227 << 10])
@pytest.mark.parametrize("bm", [16, 32, 64, 128])
def test_a_pipeline_fits(bm: int, shared: int) -> None:
    for rows, k, kind in ((12288, 4096, PLAIN), (22016, 4096, GATED), (4096, 11008, RESIDUAL), (960, 576, PLAIN)):
        config = int4_matmul_config(rows, k, kind, bm, shared)
        assert config.stages >= 2
        assert config.stages * pipeline_bytes(config.bn, config.bk, bm, kind) <= shared
    for tokens in (129, 512, 1024):
        block, config = int4_prompt_config(4096, tokens, shared)
        assert config.stages * pipeline_bytes(config.bn, config.bk, block, PLAIN) <= shared


@pytest.mark.skipif(DEVICE.type == "cpu", reason="16-bit operands are dequantized by inline assembly, on GPUs only")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMATS)
def test_16_bit_operands_are_as_exact_as_16_bit_weights(form: int, dtype: torch.dtype) -> None:
    """Against the product in float64, the error is about that of weights rounded to 16 bits."""
    rows, k = 256, 1024
    w, x = int4(rows, k, form), random(16, k, dtype=dtype)
    exact = x.double() @ w.dequantize().double().T
    rounded = (F.linear(x.double(), w.dequantize().to(dtype).double()) - exact).norm()
    out, scratch = torch.empty(16, rows, device=DEVICE), Scratch.allocate(DEVICE, 1 << 20, 64)
    int4_matmul(x, w, out, GemmConfig(64, 256, 2, 3, 4), scratch, bm=16, pdl=PDL)
    assert (out - exact).norm() <= 2 * rounded + 1e-5 * exact.norm()
    int4_gemv(x[:1], w, out[:1], pdl=PDL)
    assert (out[0] - exact[0]).norm() <= 1e-4 * exact[0].norm()


@pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no inline assembly to compare with")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMATS)
def test_inline_assembly_gives_the_bits_of_integer_operations(form: int, dtype: torch.dtype) -> None:
    w = int4(48, 512, form)
    results = []
    for asm in (False, True):
        out = torch.full((48, 512), torch.nan, dtype=dtype, device=DEVICE)
        int4_dequantize_kernel[(3, 2)](
            w.words, w.scales, w.groups, out, 48, K=512, TILES=2, FORMAT=w.format, WARPS=1, PDL=False, ASM=asm,
            num_warps=1,
        )  # fmt: skip
        results.append(out)
    assert torch.equal(*results)
