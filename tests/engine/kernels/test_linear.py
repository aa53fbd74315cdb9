"""The GEMV and GEMM kernels against plain torch: every ending, ragged sizes, split reductions."""

import pytest
import torch

from engine.kernels.linear.gemm_configs import fit_shared_memory, gemm_config
from engine.kernels.linear.gemv import gemv
from engine.kernels.linear.matmul import GATED, PLAIN, RESIDUAL, GemmConfig, PartialSquares, Scratch, matmul
from engine.kernels.pdl import supported
from engine.model import quantization
from engine.model.quantization import quantized_weight
from tests.engine.kernels import reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PDL = supported(DEVICE)
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
CLOSE = {"rtol": 2e-2, "atol": 2e-2} if DEVICE.type == "cuda" else {"rtol": 1e-4, "atol": 1e-4}
EPS = 1e-5


def random(*shape: int, dtype: torch.dtype = DTYPE, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def weights(rows: int, k: int) -> torch.Tensor:
    return (random(rows, k, dtype=torch.float32, seed=1) * k**-0.5).to(DTYPE)


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("k", [64, 100, 300])
@pytest.mark.parametrize(("norm", "gated", "residual"), [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1)])
def test_one_token(k: int, norm: int, gated: int, residual: int, two: bool) -> None:
    n = 6
    x, w, gain = random(1, k), weights(2 * n if gated else n, k), random(k, seed=5)
    out = random(1, n, seed=9)
    expected = reference.linear(
        x, w, gain=gain if norm else None, eps=EPS, gated=bool(gated), residual=out.clone() if residual else None
    )
    gemv(
        x, w, out, gain=gain if norm else None, eps=EPS, gated=bool(gated), residual=bool(residual), pdl=PDL, block=128,
        two_rows=two,
    )  # fmt: skip
    torch.testing.assert_close(out.float(), expected, **CLOSE)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("k", [128, 144])
@pytest.mark.parametrize("kind", [PLAIN, GATED, RESIDUAL])
def test_few_tokens(kind: int, k: int, split: int, early: bool) -> None:
    bm, n = 16, 40
    x, w, gain = random(bm, k), weights(2 * n if kind == GATED else n, k), random(n, seed=5)
    out, scaled = random(bm, n, seed=9), torch.full((bm, n), torch.nan, dtype=DTYPE, device=DEVICE)
    squares_out = torch.full((4, bm), torch.nan, device=DEVICE)
    before = out.clone()
    # Two partial sums of squares go in: each token's 1 / rms must come from their sum.
    halves = x.float().square().unflatten(1, (2, -1)).sum(-1).T.contiguous()
    scratch = Scratch.allocate(DEVICE, 1 << 16, 64)
    parts = matmul(
        x, w, out, GemmConfig(bn=16, bk=32, split=split, stages=2, warps=4, early=early), scratch,
        bm=bm, kind=kind, norm=PartialSquares(halves, 2), eps=EPS, gain=gain, scaled=scaled, squares_out=squares_out,
        pdl=PDL,
    )  # fmt: skip
    ones = torch.ones(k, device=DEVICE)
    y = reference.linear(x, w, gain=ones, eps=EPS, gated=kind == GATED, residual=before if kind == RESIDUAL else None)
    torch.testing.assert_close(out.float(), y, **CLOSE)
    assert not scratch.counters.any()
    if kind == RESIDUAL:
        assert parts == 3
        torch.testing.assert_close(scaled.float(), y * gain.float(), **CLOSE)
        torch.testing.assert_close(squares_out[:parts].sum(0), y.square().sum(1), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("k", [64, 100, 300, 576])
def test_the_quantization_error(k: int) -> None:
    """Of a normal distribution and one with long tails; of groups of one value, and of zeros."""
    normal = random(32, k, dtype=torch.float32)
    for w, int4_limit in ((normal, 0.08), (normal * normal.abs(), 0.12)):
        for bits, limit in ((8, 0.03), (4, int4_limit)):
            quantized = quantized_weight(w, bits)
            assert (quantized.dequantize() - w).norm() < limit * w.norm()
            num_bytes = sum(buffer.numel() * buffer.element_size() for buffer in quantized.buffers())
            assert num_bytes == quantization.quantized_bytes(32, k, bits)
    flat = torch.zeros(4, k, device=DEVICE)
    flat[1] = 3.0
    for bits in (8, 4):
        torch.testing.assert_close(quantized_weight(flat, bits).dequantize(), flat, rtol=4e-3, atol=0)


@pytest.mark.parametrize("shared", [99 << 10, 163 << 10, 227 << 10])
@pytest.mark.parametrize("bm", [16, 32, 64, 128])
def test_a_pipeline_fits_every_card(bm: int, shared: int) -> None:
    for rows, k, kind in ((12288, 4096, PLAIN), (4096, 4096, RESIDUAL), (22016, 4096, GATED), (4096, 11008, RESIDUAL)):
        for item in (1, 2):
            config = fit_shared_memory(gemm_config(rows, k, kind, bm, item), kind, bm, item, shared)
            height = config.bn * (2 if kind == GATED else 1)
            assert config.stages >= 2
            assert config.stages * config.bk * (height * item + bm * 2) <= shared
    largest = gemm_config(22016, 4096, GATED, 32)
    assert fit_shared_memory(largest, GATED, 32, 2, 227 << 10) == largest
    assert fit_shared_memory(largest, GATED, 32, 2, 99 << 10) != largest
