"""The kernels of 8-bit weights, int8 and fp8, against plain torch: every ending, ragged sizes, split reductions."""

import pytest
import torch

from engine.kernels.linear.eight_bit_dequantize import eight_bit_dequantize
from engine.kernels.linear.eight_bit_gemv import eight_bit_gemv
from engine.kernels.linear.eight_bit_matmul import eight_bit_matmul
from engine.kernels.linear.eight_bit_prompt import eight_bit_prompt
from engine.kernels.linear.gemm_configs import (
    EIGHT_BIT_PROMPT_TILINGS,
    eight_bit_gemm_config,
    eight_bit_prompt_bytes,
    eight_bit_prompt_config,
)
from engine.kernels.linear.gemv import DeferredValue
from engine.kernels.linear.matmul import GATED, PLAIN, RESIDUAL, GemmConfig, PartialSquares, Scratch
from engine.kernels.linear.quantize_tokens import quantize_tokens
from engine.kernels.pdl import supported
from engine.layers.fp8_tokens import quantized_tokens, rounded_tokens
from engine.model.eight_bit_weight import EightBitWeight, Fp8Weight, Int8Weight
from engine.runner.cuda.layers.scaled_products import ScaledProducts
from tests.engine.kernels import reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PDL = supported(DEVICE)
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
CLOSE = {"rtol": 2e-2, "atol": 2e-2} if DEVICE.type == "cuda" else {"rtol": 1e-4, "atol": 1e-4}
EPS = 1e-5
FORMATS = [Int8Weight, Fp8Weight]
COLUMNS = [64, 100, 300, pytest.param(1536, marks=pytest.mark.long)]  # a line has 64


def random(*shape: int, dtype: torch.dtype = DTYPE, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def weights(rows: int, k: int) -> torch.Tensor:
    return random(rows, k, dtype=torch.float32, seed=1) * k**-0.5


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("k", COLUMNS)
@pytest.mark.parametrize(("norm", "gated", "residual"), [(0, 0, 0), (1, 1, 0), (0, 0, 1)])
def test_one_token(kind: type[EightBitWeight], k: int, norm: int, gated: int, residual: int) -> None:
    n = 6  # two programs, the second one not full
    x, gain = random(1, k), random(k, seed=5)
    w = kind(weights(2 * n if gated else n, k))
    out = random(1, n, dtype=torch.float32, seed=9)
    expected = reference.linear(
        x, w, gain=gain if norm else None, eps=EPS, gated=bool(gated), residual=out.clone() if residual else None
    )
    eight_bit_gemv(
        x, w.words, w.scales, out, fp8=w.fp8, gain=gain if norm else None, eps=EPS, gated=bool(gated),
        residual=bool(residual), pdl=PDL, block=2,
    )  # fmt: skip
    torch.testing.assert_close(out, expected, **CLOSE)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_deferred_value_is_added_to_one_token(kind: type[EightBitWeight]) -> None:
    heads, group, dim = 4, 2, 32
    x, share, value = random(1, heads * dim), random(heads, dtype=torch.float32), random(1, heads // group * dim)
    w, out = kind(weights(10, heads * dim)), torch.full((1, 10), torch.nan, device=DEVICE)
    whole = x.float() + (share[:, None] * value.float().view(-1, dim).repeat_interleave(group, 0)).view(1, -1)
    eight_bit_gemv(
        x, w.words, w.scales, out, fp8=w.fp8, deferred=DeferredValue(share, value, group, dim), num_rows=8, pdl=PDL
    )
    torch.testing.assert_close(out[:, :8], reference.linear(whole, w)[:, :8], **CLOSE)
    assert out[:, 8:].isnan().all()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("k", COLUMNS)
@pytest.mark.parametrize("ending", [PLAIN, GATED, RESIDUAL])
def test_few_tokens(ending: int, k: int, kind: type[EightBitWeight]) -> None:
    """Ragged tiles, splits of unequal length, a last step past the row's end."""
    bm, n = 16, 40
    x, w, gain = random(bm, k), kind(weights(2 * n if ending == GATED else n, k)), random(n, seed=5)
    before, scaled = random(bm, n, dtype=torch.float32, seed=9), torch.empty(bm, n, dtype=DTYPE, device=DEVICE)
    squares_out = torch.full((4, bm), torch.nan, device=DEVICE)
    squares = x.float().square().sum(-1)[None]
    expected = reference.linear(
        x, w, gain=torch.ones(k, device=DEVICE), eps=EPS, gated=ending == GATED,
        residual=before if ending == RESIDUAL else None,
    )  # fmt: skip
    scratch = Scratch.allocate(DEVICE, 1 << 16, 64)
    for split, bk in ((1, 32), (3, 32), (2, 64)):
        out = before.clone()
        parts = eight_bit_matmul(
            x, w.words, w.scales, out, GemmConfig(16, bk, split, 2, 4), scratch, fp8=w.fp8, bm=bm, kind=ending,
            norm=PartialSquares(squares, 1), eps=EPS, gain=gain, scaled=scaled, squares_out=squares_out, pdl=PDL,
        )  # fmt: skip
        torch.testing.assert_close(out, expected, **CLOSE)
        assert not scratch.counters.any()
        if ending == RESIDUAL:
            torch.testing.assert_close(scaled.float(), expected * gain.float(), **CLOSE)
            torch.testing.assert_close(squares_out[:parts].sum(0), expected.square().sum(1), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("tokens", "k", "add", "bulk"),
    [(41, 100, False, False), (64, 320, True, False), (41, 72, True, True), (70, 192, False, True)],
)
@pytest.mark.parametrize("bk", [32, 64])
def test_a_prompt(tokens: int, k: int, add: bool, bulk: bool, bk: int, kind: type[EightBitWeight]) -> None:
    """Partial blocks of tokens and rows, partial last steps, both ways to load; nothing past the tokens is written."""
    n, bulk = 100, bulk and (PDL or DEVICE.type == "cpu")
    x, w = random(tokens + 5, k), kind(weights(n, k))
    x[tokens:] = torch.nan
    before = random(tokens + 5, n, seed=9)
    out = before.clone()
    eight_bit_prompt(
        x[:tokens], w.words, w.scales, out[:tokens], GemmConfig(64, bk, 1, 2, 4, bulk=bulk), fp8=w.fp8, bm=32,
        add=add, pdl=PDL,
    )  # fmt: skip
    expected = reference.linear(x[:tokens], w) + (before[:tokens].float() if add else 0.0)
    torch.testing.assert_close(out[:tokens].float(), expected, **CLOSE)
    assert torch.equal(out[tokens:], before[tokens:])


@pytest.mark.skipif(DEVICE.type == "cpu", reason="whole programs of a prompt are for tensor cores")
@pytest.mark.parametrize(
    ("tiling", "dtype"),
    [
        *((tiling, torch.bfloat16) for tiling, _ in EIGHT_BIT_PROMPT_TILINGS),
        (EIGHT_BIT_PROMPT_TILINGS[0][0], torch.float16),
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_tiling_of_a_prompt(
    kind: type[EightBitWeight], tiling: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    """Over more steps than the pipeline has stages."""
    (bm, bn, bk, stages, warps), n, k = tiling, 400, 1000
    x, w, before = random(300, k, dtype=dtype), kind(weights(n, k)), random(300, n, dtype=dtype, seed=9)
    for add, bulk in dict.fromkeys(((False, PDL), (True, PDL), (True, False))):
        out, config = before.clone(), GemmConfig(bn, bk, 1, stages, warps, bulk=bulk)
        eight_bit_prompt(x, w.words, w.scales, out, config, fp8=w.fp8, bm=bm, add=add, pdl=PDL)
        expected = reference.linear(x, w) + (before.float() if add else 0.0)
        torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("k", COLUMNS)
def test_a_matrix_is_dequantized(k: int, kind: type[EightBitWeight]) -> None:
    w = kind(weights(21, k))
    out = torch.full((21, k), torch.nan, dtype=DTYPE, device=DEVICE)
    eight_bit_dequantize(w.words, w.scales, out, fp8=w.fp8, pdl=PDL, block=2)
    torch.testing.assert_close(out.float(), w.dequantize(), **CLOSE)


@pytest.mark.parametrize("dtype", [DTYPE, torch.float16, torch.float32] if DEVICE.type == "cuda" else [DTYPE])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_code_is_unpacked_exactly(kind: type[EightBitWeight], dtype: torch.dtype) -> None:
    """Each of 256 codes, in both bytes of a word, in every dtype: times 1, in the kernel of few tokens and of one."""
    codes = torch.arange(-128, 128).to(torch.int8).view(kind.code_dtype)
    codes = torch.where(codes.float().isnan(), 0.0, codes.float()).to(kind.code_dtype)
    matrix = torch.zeros(256, 64, device=DEVICE)
    w = kind(matrix)
    w.scales.fill_(1.0)
    w.words.view(torch.int8).view(256, 32, 2)[:, 3, 0] = codes.view(torch.int8).to(DEVICE)
    w.words.view(torch.int8).view(256, 32, 2)[:, 3, 1] = codes.view(torch.int8).flip(0).to(DEVICE)
    x = torch.zeros(16, 64, dtype=dtype, device=DEVICE)
    x[0, 3] = x[1, 35] = 1.0
    out = torch.full((16, 256), torch.nan, device=DEVICE)
    eight_bit_matmul(
        x, w.words, w.scales, out, GemmConfig(64, 32, 1, 2, 4), Scratch.allocate(DEVICE, 1 << 16, 64), fp8=w.fp8,
        bm=16, pdl=PDL,
    )  # fmt: skip
    expected = torch.stack((codes.float(), codes.float().flip(0))).to(DEVICE)
    assert torch.equal(out[:2], expected)
    for token in range(2):
        one = torch.full((1, 256), torch.nan, device=DEVICE)
        eight_bit_gemv(x[token : token + 1], w.words, w.scales, one, fp8=w.fp8, pdl=PDL)
        assert torch.equal(one[0], expected[token])


@pytest.mark.parametrize("shared", [64 << 10, 99 << 10, 227 << 10])
@pytest.mark.parametrize("item", [2, 4])
@pytest.mark.parametrize("bm", [16, 32, 64, 128])
def test_a_pipeline_fits_every_card(bm: int, item: int, shared: int) -> None:
    for rows, k, ending in ((12288, 4096, PLAIN), (22016, 4096, GATED), (4096, 11008, RESIDUAL), (960, 576, PLAIN)):
        config = eight_bit_gemm_config(rows, k, ending, bm, item, shared)
        words = config.bk * 2 * config.bn * (2 if ending == GATED else 1)
        assert config.stages >= 1
        assert config.stages * (words + 2 * config.bk * bm * item) < shared
    for rows, k, ending in ((12288, 4096, PLAIN), (22016, 4096, GATED), (4096, 11008, RESIDUAL)):
        assert eight_bit_gemm_config(rows, k, ending, bm, 2, 227 << 10).stages >= 3


@pytest.mark.parametrize("shared", [64 << 10, 99 << 10, 227 << 10])
def test_a_prompts_pipeline_fits_every_card(shared: int) -> None:
    for rows, tokens in ((96, 65), (4096, 256), (4096, 512), (12288, 512), (22016, 1024)):
        bm, config = eight_bit_prompt_config(rows, tokens, shared, bulk=True)
        assert eight_bit_prompt_bytes(bm, config.bn, config.bk, config.stages) < shared
        assert config.stages >= 3


def test_a_prompts_programs_fill_the_multiprocessors() -> None:
    """Small products get small programs, so that there are enough of them."""
    areas = []
    for rows, tokens in ((4096, 256), (12288, 1024)):
        bm, config = eight_bit_prompt_config(rows, tokens, 227 << 10, bulk=True)
        areas.append(bm * config.bn)
        assert -(-tokens // bm) * -(-rows // config.bn) > 100
    assert areas[0] < areas[1]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("k", [64, 100, 300])
def test_tokens_are_quantized(k: int, gated: bool) -> None:
    tokens, lines = 5, -(-k // 64)
    x = random(tokens, 2 * k if gated else k)
    x[:, -k:] *= torch.tensor([[1e-3], [1.0], [30.0], [500.0], [0.0]], device=DEVICE)  # not of the gate
    codes = torch.zeros(tokens, lines * 64, device=DEVICE).to(torch.float8_e4m3fn)
    scales = torch.full((tokens, 1), torch.nan, device=DEVICE)
    quantize_tokens(x, codes, scales, gated=gated, pdl=PDL)
    wanted = (reference.gate_mul(x.float()) if gated else x.float()).to(DEVICE)
    packed = codes.float().view(tokens, -1, 32, 2).transpose(2, 3).reshape(tokens, -1) * scales
    assert not packed[:, k:].any()
    expected, expected_scales = quantized_tokens(wanted)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-2 if gated else 1e-6, atol=1e-12)
    # A number between two codes may become either: they differ by at most an eighth.
    found, wanted_codes = packed[:, :k], expected.float() * expected_scales
    torch.testing.assert_close(found, wanted_codes, rtol=2**-3, atol=float(scales.max()) * 2**-9)
    assert (found == wanted_codes).float().mean() > (0.5 if gated and DEVICE.type == "cuda" else 0.95)


@pytest.mark.parametrize(("rows", "k"), [(32, 100), (48, 256)])
def test_a_scaled_product(rows: int, k: int) -> None:
    x, w = random(70, k), Fp8Weight(weights(rows, k))
    out = torch.full((70, rows), torch.nan, dtype=DTYPE, device=DEVICE)
    assert ScaledProducts.supported(DEVICE, DTYPE)
    ScaledProducts(DEVICE, 80, 300).product(x, w, out)
    expected = reference.linear(rounded_tokens(x.float()), w)
    assert (out.float() - expected).norm() < 5e-3 * expected.norm()
    unrounded = reference.linear(x, w)
    assert 5e-3 * unrounded.norm() < (expected - unrounded).norm() < 0.04 * unrounded.norm()


@pytest.mark.parametrize("scale", [1.0, 0.37, 3e-4])
def test_e4m3_weights_of_a_file_keep_their_codes(scale: float) -> None:
    """Decoded to bfloat16 with any scale; only the scale is rounded."""
    codes = random(9, 200, dtype=torch.float32).mul(60).clamp(-448, 448).to(torch.float8_e4m3fn)
    w = Fp8Weight((codes.float() * scale).to(torch.bfloat16))
    torch.testing.assert_close(w.dequantize(), codes.float() * scale, rtol=1e-3, atol=0)
