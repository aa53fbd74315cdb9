"""Linear layers with quantized weights in torch on a CPU: close to float32, and independent of the batch."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from engine.layers.cpu_linear import GROUP, Int4Linear, Int8Linear, Norm, byte_range

SHAPES = [(960, 576), (576, 1536), (64, 32), (192, 4096)]
ODD = (37, 53)  # multiples of neither the group nor the block size


def weights(shape: tuple[int, int]) -> Tensor:
    """Rows of very different magnitudes, as models have them."""
    generator = torch.Generator().manual_seed(shape[0])
    return torch.randn(shape, generator=generator) * torch.rand(shape[0], 1, generator=generator)


def tokens(count: int, width: int) -> Tensor:
    """Tokens with one outlier each, as in a Llama's activations."""
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, width, generator=generator) * torch.rand(count, 1, generator=generator)
    x[torch.arange(count), torch.arange(count) % width] *= 100
    return x


@pytest.mark.parametrize("shape", [*SHAPES, ODD])
def test_the_int8_error_is_within_rounding(shape: tuple[int, int]) -> None:
    weight, x = weights(shape), tokens(9, shape[1])
    # Half a quantization step of each weight, and of each activation in 14 bits, the lower of the two precisions.
    by_weights = x.double().abs().sum(1, keepdim=True) * (weight.abs().amax(1) / 127 / 2).double()
    by_tokens = x.abs().amax(1, keepdim=True).double() / 8127 * weight.double().abs().sum(1) * 0.51
    error = (Int8Linear(weight)(x).double() - x.double() @ weight.double().T).abs()
    assert bool((error <= by_weights * 1.01 + by_tokens).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_int4_error_is_within_rounding(shape: tuple[int, int]) -> None:
    weight, x = weights(shape), tokens(9, shape[1])
    groups = weight.view(shape[0], -1, GROUP)
    # Half a step of the 15 in a group, and the bfloat16 rounding of its scale and zero point, of x and of y.
    step = (groups.amax(2) - groups.amin(2)) / 15 / 2 + groups.abs().amax(2) / 64
    expected = x.double() @ weight.double().T
    bound = (x.abs().view(9, 1, -1, GROUP).sum(3) * step).sum(2) + (x.abs() @ weight.abs().T) / 128
    assert bool(((Int4Linear(weight, torch.float32)(x).double() - expected).abs() <= bound).all())


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_does_not_depend_on_its_neighbours(kind: type[nn.Module], shape: tuple[int, int]) -> None:
    linear, x = kind(weights(shape)), tokens(100, shape[1])
    expected = linear(x)
    for count in (1, 2, 3, 5, 8, 16, 17, 33, 64):
        for first in (0, 7):
            assert torch.equal(linear(x[first : first + count]), expected[first : first + count])


def test_zeros_stay_zero_and_nan_stays_nan() -> None:
    x = torch.zeros(3, 64)
    x[1, 5], x[2, 6] = torch.nan, 1.0
    weight = torch.ones(64, 64)
    weight[3] = 0
    y = Int8Linear(weight)(x)
    assert torch.equal(y[0], torch.zeros(64))
    assert bool(y[1].isnan().all())
    assert y[2, 3] == 0
    assert torch.equal(y[2, 4:], torch.ones(60))


def test_the_norm_is_rms_norm() -> None:
    x, weight = tokens(5, 576), 1 + torch.arange(576) / 576
    expected = torch.nn.functional.rms_norm(x, (576,), weight, 1e-5)
    assert torch.allclose(Norm(weight, 1e-5)(x), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(Norm(weight, 1e-5)(torch.zeros(1, 576)), torch.zeros(1, 576))


def test_without_vnni_activations_have_a_bit_less_and_nothing_saturates() -> None:
    """Instructions before VNNI saturate 16-bit sums. oneDNN can be restricted to them on any machine."""
    test = f"{__file__}::test_the_int8_error_is_within_rounding"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    result = subprocess.run(
        command, env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout
    probe = "from engine.layers.cpu_linear import byte_range; print(byte_range())"
    printed = subprocess.run(
        [sys.executable, "-c", probe],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert printed.stdout.strip() == "(64, 63)"
    assert byte_range() in ((128, 127), (64, 63))
