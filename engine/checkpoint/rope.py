"""Llama 3.1's RoPE scaling: checks settings, or derives them from the table of factors that GGUF files carry."""

import math
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.spec import RopeScaling
from engine.errors import ConfigError


def check_rope_scaling(source: Path, scaling: RopeScaling) -> None:
    """ConfigError for settings that give no frequencies: between the two factors the formula divides by their span."""
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        found = f"{scaling.low_freq_factor} and {scaling.high_freq_factor}"
        raise ConfigError(source, expected="low_freq_factor below high_freq_factor", found=found)


def scaling_factors(scaling: RopeScaling, head_dim: int, theta: float) -> Tensor:
    """The divisor of each RoPE frequency, [head_dim / 2]: 1 for high ones, `factor` for low ones, smoothed between.

    The formula is Meta's `apply_scaling` in llama-models; llama.cpp's converter writes its result.
    """
    frequency = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    wavelength = 2 * math.pi / frequency
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (scaling.original_context / wavelength - low) / (high - low)
    blend = 1 / ((1 - smooth) / scaling.factor + smooth)
    factors = torch.where(wavelength > scaling.original_context / low, scaling.factor, blend)
    return torch.where(wavelength < scaling.original_context / high, 1.0, factors).float()


def scaling_from_factors(source: Path, factors: Tensor, head_dim: int, theta: float) -> RopeScaling | None:
    """The settings that produce this table, None if it does not scale; ConfigError if it is not Llama 3.1's.

    Published models differ in `factor` only, so the other settings are Llama 3.1's.
    """
    if bool((factors == 1).all()):
        return None
    guess = RopeScaling(
        factor=round(float(factors.max()), 3), low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )
    expected = scaling_factors(guess, head_dim, theta)
    if factors.shape != expected.shape or not torch.allclose(factors, expected, rtol=1e-3):
        raise ConfigError(source, expected="rope_freqs of Llama 3.1's scaling", found="another table")
    return guess
