"""Linear layers in compiled code: close to float32, exact for weights that a file quantized the same way, and
independent of batch and threads."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.checkpoint import open_checkpoint
from engine.runner.cpu.linear import GROUP, NativeLinear
from tests.engine.checkpoint import quantized_forms
from tests.engine.layers.test_cpu_linear import tokens, weights
from tests.engine.runner.cpu.native_code import require_compiled_library

FORK = """
import os, signal, sys, torch
from engine.runner.cpu.build import compiled_library
from engine.runner.cpu.linear import NativeLinear
torch.set_num_threads(2)
linear, x = NativeLinear(compiled_library(), torch.ones(64, 64), 8), torch.ones(3, 64)
before = linear(x)
child = os.fork()
signal.alarm(30)
same = torch.equal(linear(x), before)
if child:
    same = same and os.waitpid(child, 0)[1] == 0
sys.exit(not same)
"""
SHAPES = [(960, 576), (576, 1536), (64, 32), (37, 53), (1, 5), (4112, 64)]


def grouped(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, -x.shape[1] % GROUP)).view(len(x), -1, GROUP)


def token_rounding(weight: Tensor, x: Tensor) -> Tensor:
    """The error bound of 16-bit activations: half a quantization step each."""
    return (grouped(x).abs().amax(2) / 65000).double() @ grouped(weight).abs().sum(2).double().T


def exact(weight: Tensor, x: Tensor, more: Tensor | float = 0.0) -> bool:
    """Whether the product is off by no more than the activations' rounding, and `more` for each weight."""
    got = NativeLinear(require_compiled_library(), weight, 4)(x).double()
    bound = token_rounding(weight, x) + x.double().abs() @ (weight.double().abs() * 1e-6 + more).T
    return bool(((got - x.double() @ weight.double().T).abs() <= bound).all())


@pytest.mark.parametrize("magnitude", [-30, -3, 0, 20])
@pytest.mark.parametrize("spread", [0.6, 2.0, 7.0])
def test_codes_of_a_file_are_kept_where_a_group_does_not_use_all_of_them(magnitude: int, spread: float) -> None:
    """Symmetric codes as in GPTQ's groups of 128 and GGUF's Q4_0: a float16 step and no minimum."""
    generator = torch.Generator().manual_seed(7)
    codes = (torch.randn(96, 256, generator=generator) * spread).round().clamp(-8, 7)
    steps = ((torch.rand(96, 2, generator=generator) + 0.01) / 50).half().float().repeat_interleave(128, 1)
    assert exact(codes * steps * 2.0**magnitude, tokens(9, 256))


def test_only_matrices_of_centred_codes_have_no_minimums() -> None:
    """In one group less than all, code 8 does not stand for zero."""
    generator = torch.Generator().manual_seed(9)
    codes = torch.randint(-8, 8, (5000, 64), generator=generator)
    library, x = require_compiled_library(), tokens(9, 64)
    centred = NativeLinear(library, codes * 0.0078125, 4)
    codes[4999, 32:64] = 8
    codes[4999, 33] = 1
    other = NativeLinear(library, codes * 0.0078125, 4)
    assert (centred.matrix.has_minimums, other.matrix.has_minimums) == (0, 1)
    assert centred._data.numel() * 10 == other._data.numel() * 9
    assert torch.allclose(centred(x)[:, :4999], other(x)[:, :4999], atol=1e-5)
    assert exact(codes * 0.0078125, x)


def test_codes_with_zero_points_are_kept_but_for_the_rounding_of_the_minimum() -> None:
    generator = torch.Generator().manual_seed(8)
    codes = (torch.randn(96, 256, generator=generator) * 2 + 7).round().clamp(0, 15)
    zeros = torch.randint(4, 11, (96, 2), generator=generator).repeat_interleave(128, 1)
    steps = ((torch.rand(96, 2, generator=generator) + 0.01) / 50).half().float().repeat_interleave(128, 1)
    assert exact((codes - zeros) * steps, tokens(9, 256), more=(zeros * steps).double() * 2.0**-11)


@pytest.mark.parametrize("form", ["gptq", "ct packed", "awq"])
def test_weights_of_a_quantized_folder_are_kept(tmp_path: Path, form: str) -> None:
    checkpoint = open_checkpoint(quantized_forms.write(tmp_path, quantized_forms.FORMS[form])[0])
    weight = torch.empty(64, 96)
    checkpoint.copy_into("layers.0.feed_forward.w2.weight", weight)
    assert exact(weight, tokens(9, 96), more=weight.abs().max().double() * 2.0**-11 if form == "awq" else 0.0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_within_rounding(shape: tuple[int, int], bits: int) -> None:
    weight, x = weights(shape), tokens(9, shape[1])
    padded = grouped(weight)
    # Half a quantization step of the group, the error of its minimum, and that of a scale of 11 bits.
    step = (padded.amax(2) - padded.amin(2)) / 15 * 0.7 if bits == 4 else padded.abs().amax(2) / 254
    step = (step + padded.abs().amax(2) / 2000).double()
    group_sums = grouped(x.double().abs()).sum(2).unsqueeze(1)
    error = (NativeLinear(require_compiled_library(), weight, bits)(x).double() - x.double() @ weight.double().T).abs()
    assert bool((error <= (group_sums * step).sum(2) + token_rounding(weight, x)).all())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("magnitude", [1e-9, 1e-3, 1.0, 1e6])
def test_the_grid_of_a_file_is_kept_exactly(bits: int, magnitude: float) -> None:
    """Blocks as in GGUF's Q4_1 and Q8_0: a float16 scale, which can be computed back from the block's extremes."""
    generator = torch.Generator().manual_seed(bits)
    levels = 16 if bits == 4 else 255
    codes = torch.randint(0, levels, (96, 4, GROUP), generator=generator)
    codes[..., 0], codes[..., 1] = 0, levels - 1
    scale = (torch.rand(96, 4, 1, generator=generator) + 0.01).half().float()
    minimum = torch.randn(96, 4, 1, generator=generator).half().float() if bits == 4 else -127 * scale
    weight, x = (
        ((codes * scale + minimum) * 2.0 ** round(torch.tensor(magnitude).log2().item())).view(96, -1),
        tokens(9, 128),
    )
    expected = x.double() @ weight.double().T
    got = NativeLinear(require_compiled_library(), weight, bits)(x)
    bound = token_rounding(weight, x) + x.double().abs() @ weight.double().abs().T * 1e-6
    assert bool(((got.double() - expected).abs() <= bound).all())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_depends_neither_on_neighbours_nor_on_threads(shape: tuple[int, int], bits: int) -> None:
    linear, x = NativeLinear(require_compiled_library(), weights(shape), bits), tokens(100, shape[1])
    expected, num_threads = linear(x), torch.get_num_threads()
    for count in range(1, 100):
        first = count % 7
        assert torch.equal(linear(x[first : first + count]), expected[first : first + count])
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(linear(x), expected)
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("nonfinite", [torch.nan, torch.inf, -torch.inf])
def test_zeros_stay_zero_and_nonfinite_becomes_nan(bits: int, nonfinite: float) -> None:
    x = torch.zeros(3, 64)
    x[1, 5], x[2, 6] = nonfinite, 1.0
    weight = torch.ones(64, 64)
    weight[3] = 0
    y = NativeLinear(require_compiled_library(), weight, bits)(x)
    assert torch.equal(y[0], torch.zeros(64))
    assert bool(y[1].isnan().all())
    assert y[2, 3] == 0
    assert torch.allclose(y[2, 4:], torch.ones(60), atol=1e-3)


def test_the_result_has_the_dtype_of_the_input() -> None:
    linear, x = NativeLinear(require_compiled_library(), weights((64, 64)), 8), tokens(3, 64)
    expected: Tensor = linear(x.bfloat16().float())
    assert torch.equal(linear(x.bfloat16()), expected.bfloat16())
    assert torch.equal(linear(x.t().contiguous().t()), linear(x))
    assert linear(x[:0]).shape == (0, 64)


def test_a_forked_process_computes_and_ends() -> None:
    """A forked child does not have its parent's threads."""
    require_compiled_library()
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)
