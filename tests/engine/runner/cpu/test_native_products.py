"""Products by our compiled code: near the whole ones, exact on a file's own grid, the same in any company."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from engine.runner.cpu.linear import GROUP, NativeLinear
from tests.engine.runner.cpu.native_code import code
from tests.engine.runner.cpu.test_products import tokens, weights

FORK = """
import os, signal, sys, torch
from engine.runner.cpu.build import library
from engine.runner.cpu.linear import NativeLinear
torch.set_num_threads(2)
product, x = NativeLinear(library(), torch.ones(64, 64), 8), torch.ones(3, 64)
before = product(x)
child = os.fork()
signal.alarm(30)
same = torch.equal(product(x), before)
if child:
    same = same and os.waitpid(child, 0)[1] == 0
sys.exit(not same)
"""
SHAPES = [(960, 576), (576, 1536), (64, 32), (37, 53), (1, 5), (4112, 64)]


def grouped(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, -x.shape[1] % GROUP)).view(len(x), -1, GROUP)


def of_tokens(weight: Tensor, x: Tensor) -> Tensor:
    """What 16 bits of a token may cost: half a step of each number."""
    return (grouped(x).abs().amax(2) / 65000).double() @ grouped(weight).abs().sum(2).double().T


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_within_their_rounding(shape: tuple[int, int], bits: int) -> None:
    weight, x = weights(shape), tokens(9, shape[1])
    padded = grouped(weight)
    # Half a step of a group and what its middle is off, and what 11 bits of scale add.
    step = (padded.amax(2) - padded.amin(2)) / 15 * 0.7 if bits == 4 else padded.abs().amax(2) / 254
    step = (step + padded.abs().amax(2) / 2000).double()
    loads = grouped(x.double().abs()).sum(2).unsqueeze(1)
    error = (NativeLinear(code(), weight, bits)(x).double() - x.double() @ weight.double().T).abs()
    assert bool((error <= (loads * step).sum(2) + of_tokens(weight, x)).all())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0, 1e6])
def test_the_grid_of_a_file_is_kept(bits: int, size: float) -> None:
    """Blocks as GGUF's Q4_1 and Q8_0 have them: a scale in 16 bits, which the extremes of a block give away."""
    generator = torch.Generator().manual_seed(bits)
    most = 16 if bits == 4 else 255
    whole = torch.randint(0, most, (96, 4, GROUP), generator=generator)
    whole[..., 0], whole[..., 1] = 0, most - 1
    scale = (torch.rand(96, 4, 1, generator=generator) + 0.01).half().float()
    least = torch.randn(96, 4, 1, generator=generator).half().float() if bits == 4 else -127 * scale
    weight, x = ((whole * scale + least) * 2.0 ** round(torch.tensor(size).log2().item())).view(96, -1), tokens(9, 128)
    expected = x.double() @ weight.double().T
    got = NativeLinear(code(), weight, bits)(x)
    bound = of_tokens(weight, x) + x.double().abs() @ weight.double().abs().T * 1e-6
    assert bool(((got.double() - expected).abs() <= bound).all())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_depends_neither_on_neighbours_nor_on_threads(shape: tuple[int, int], bits: int) -> None:
    product, x = NativeLinear(code(), weights(shape), bits), tokens(100, shape[1])
    whole, usual = product(x), torch.get_num_threads()
    for count in range(1, 100):
        first = count % 7
        assert torch.equal(product(x[first : first + count]), whole[first : first + count])
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(product(x), whole)
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_zeros_stay_zeros_and_what_is_not_a_number_stays_none(bits: int, wrong: float) -> None:
    x = torch.zeros(3, 64)
    x[1, 5], x[2, 6] = wrong, 1.0
    weight = torch.ones(64, 64)
    weight[3] = 0
    y = NativeLinear(code(), weight, bits)(x)
    assert torch.equal(y[0], torch.zeros(64))
    assert bool(y[1].isnan().all())
    assert y[2, 3] == 0
    assert torch.allclose(y[2, 4:], torch.ones(60), atol=1e-3)


def test_other_floats_come_out_as_they_went_in() -> None:
    product, x = NativeLinear(code(), weights((64, 64)), 8), tokens(3, 64)
    whole: Tensor = product(x.bfloat16().float())
    assert torch.equal(product(x.bfloat16()), whole.bfloat16())
    assert torch.equal(product(x.t().contiguous().t()), product(x))
    assert product(x[:0]).shape == (0, 64)


def test_a_forked_process_computes_and_ends() -> None:
    """The threads that its parent had are not there."""
    code()
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)
