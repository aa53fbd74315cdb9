"""The matrix products against plain torch: every ending, ragged sizes, split reductions."""

import pytest
import torch

from engine.kernels import twins
from engine.kernels.gemv import gemv
from engine.kernels.matmul import PLAIN, RESIDUAL, SILU, Scratch, Squares, Tiling, matmul
from engine.kernels.pdl import supported
from engine.kernels.products import fitted, small_cut

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
@pytest.mark.parametrize(("norm", "silu", "residual"), [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1)])
def test_one_token(k: int, norm: int, silu: int, residual: int, two: bool) -> None:
    n = 6
    x, w, gain = random(1, k), weights(2 * n if silu else n, k), random(k, seed=5)
    out = random(1, n, seed=9)
    expected = twins.linear(
        x, w, gain=gain if norm else None, eps=EPS, silu=bool(silu), residual=out.clone() if residual else None
    )
    gemv(
        x, w, out, gain=gain if norm else None, eps=EPS, silu=bool(silu), residual=bool(residual), pdl=PDL, block=128,
        two=two,
    )  # fmt: skip
    torch.testing.assert_close(out.float(), expected, **CLOSE)


def test_one_token_with_int8_weights() -> None:
    x = random(1, 96)
    w = torch.randint(-127, 128, (10, 96), dtype=torch.int8, device=DEVICE)
    scale = random(10, dtype=torch.float32).abs() / 127
    out = torch.empty(1, 5, dtype=torch.float32, device=DEVICE)
    gemv(x, w, out, silu=True, scale=scale, pdl=PDL)
    torch.testing.assert_close(out, twins.linear(x, w, silu=True, scale=scale), **CLOSE)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("k", [128, 144])
@pytest.mark.parametrize("kind", [PLAIN, SILU, RESIDUAL])
def test_few_tokens(kind: int, k: int, split: int, early: bool) -> None:
    bm, n = 16, 40
    x, w, gain = random(bm, k), weights(2 * n if kind == SILU else n, k), random(n, seed=5)
    out, scaled = random(bm, n, seed=9), torch.full((bm, n), torch.nan, dtype=DTYPE, device=DEVICE)
    squares_out = torch.full((4, bm), torch.nan, device=DEVICE)
    before = out.clone()
    # Two parts of sums of squares go in: the tokens' factors must come from their sum.
    halves = x.float().square().unflatten(1, (2, -1)).sum(-1).T.contiguous()
    scratch = Scratch.allocate(DEVICE, 1 << 16, 64)
    parts = matmul(
        x, w, out, Tiling(bn=16, bk=32, split=split, stages=2, warps=4, early=early), scratch,
        bm=bm, kind=kind, norm=Squares(halves, 2), eps=EPS, gain=gain, scaled=scaled, squares_out=squares_out, pdl=PDL,
    )  # fmt: skip
    ones = torch.ones(k, device=DEVICE)
    y = twins.linear(x, w, gain=ones, eps=EPS, silu=kind == SILU, residual=before if kind == RESIDUAL else None)
    torch.testing.assert_close(out.float(), y, **CLOSE)
    assert not scratch.counters.any()
    if kind == RESIDUAL:
        assert parts == 3
        torch.testing.assert_close(scaled.float(), y * gain.float(), **CLOSE)
        torch.testing.assert_close(squares_out[:parts].sum(0), y.square().sum(1), rtol=2e-2, atol=1e-2)


def test_few_tokens_with_int8_weights() -> None:
    x = random(16, 128)
    w = torch.randint(-127, 128, (64, 128), dtype=torch.int8, device=DEVICE)
    scale = random(64, dtype=torch.float32).abs() / 1000
    out = torch.empty(16, 32, dtype=torch.float32, device=DEVICE)
    scratch = Scratch.allocate(DEVICE, 1 << 16, 64)
    matmul(x, w, out, Tiling(32, 64, 2, 2, 4), scratch, bm=16, kind=SILU, scale=scale, pdl=PDL)
    torch.testing.assert_close(out, twins.linear(x, w, silu=True, scale=scale), **CLOSE)


@pytest.mark.parametrize("shared", [99 << 10, 163 << 10, 227 << 10])
@pytest.mark.parametrize("bm", [16, 32, 64, 128])
def test_a_pipeline_fits_every_card(bm: int, shared: int) -> None:
    for rows, k, kind in ((12288, 4096, PLAIN), (4096, 4096, RESIDUAL), (22016, 4096, SILU), (4096, 11008, RESIDUAL)):
        for item in (1, 2):
            tiling = fitted(small_cut(rows, k, kind, bm, item, bulk=True), kind, bm, item, shared)
            height = tiling.bn * (2 if kind == SILU else 1)
            assert tiling.stages >= 2
            assert tiling.stages * tiling.bk * (height * item + bm * 2) <= shared
    largest = small_cut(22016, 4096, SILU, 32)
    assert fitted(largest, SILU, 32, 2, 227 << 10) == largest
    assert fitted(largest, SILU, 32, 2, 99 << 10) != largest
